"""Worker pool: lanes as processes forked from a warm fork server. A process that ends by itself is replaced.

The server's process stays free of torch and shares no GIL with inference. A lane that crashes, hangs or runs out of
memory affects no other, and its replacement is ready within some tenths of a second. If the fork server itself ends,
its lanes end with it, and all are started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence

from sponge_server.workers.examples import example_item
from sponge_server.workers.fork_client import ForkServerClient
from sponge_server.workers.interface import (
    Allowance,
    LaneCrashed,
    LaneError,
    ModelError,
    ModelInfo,
    ModelSpec,
    Progress,
)
from sponge_server.workers.ipc import read_message
from sponge_server.workers.lane import WorkerLane
from sponge_system.logs import event

__all__ = ["WorkerPool"]

_log = logging.getLogger("sponge.lanes")

_START_TIMEOUT_S = 120.0  # of one lane; a fork takes 0.1 s on a free core, much longer on a fraction of one
_BACKOFF_S = (0.0, 0.1, 0.5, 2.0, 5.0)  # before the n-th attempt in a row; the last one repeats


class WorkerPool:
    """Implements `interface.LanePool`."""

    def __init__(self, specs: Sequence[ModelSpec]) -> None:
        """Starts nothing yet. `specs`: at least one model."""
        self._specs = tuple(specs)
        self._models: tuple[ModelInfo, ...] = ()
        self._fork_server: ForkServerClient | None = None
        self._fork_server_changed = asyncio.Condition()
        self._watching: asyncio.Task[None] | None = None
        self.lanes: tuple[WorkerLane, ...] = ()
        self._replacing: dict[int, asyncio.Task[None]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._scaling = asyncio.Lock()
        self._allowance: Allowance = lambda _: None
        self._warmed: dict[int, tuple[int, int]] = {}  # by model: largest batch and thread count of the warm-up
        self._closing = False

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        if not self._models:
            raise LaneError("no model is loaded yet: start the lanes first")
        return self._models

    @property
    def pids(self) -> list[int]:
        """Running processes of the pool: the fork server first, then the lanes."""
        fork_server = [] if self._fork_server is None else [self._fork_server.pid]
        return fork_server + [lane.pid for lane in self.lanes if lane.pid is not None]

    def add_listener(self, callback: Callable[[], None]) -> None:
        self._listeners.append(callback)

    async def start(self, lanes: int) -> None:
        """See `interface.LanePool.start`."""
        self._fork_server, reader, self._models = await ForkServerClient.start(self._specs)
        self._watching = asyncio.create_task(self._watch_fork_server(reader), name="fork-server")
        await self.scale(lanes)

    async def scale(self, lanes: int) -> None:
        """See `interface.LanePool.scale`. Raises LaneError when a new lane does not start."""
        if lanes < 1:
            raise LaneError(f"{lanes} lanes requested: at least 1 is needed")
        async with self._scaling:
            extra, self.lanes = self.lanes[lanes:], self.lanes[:lanes]
            if extra:
                self._tell_listeners()
            for lane in extra:
                await self._stop_replacing(lane)
                await lane.retire()
            self._share_memory(lanes)
            while len(self.lanes) < lanes:
                lane = WorkerLane(len(self.lanes), self.models, self._on_lane_change, self._kill)
                lane.keep_bytes = self._allowance(lanes)
                try:
                    await self._fork(lane)
                    await self._warm(lane)
                except BaseException:
                    await lane.close()
                    raise
                self.lanes = (*self.lanes, lane)
                self._tell_listeners()

    async def warm_up(
        self, batches: Sequence[int], threads: Sequence[int], progress: Progress | None = None, model: int = 0
    ) -> None:
        """See `interface.LanePool.warm_up`."""
        info = self.models[model]
        self._warmed[model] = (max(batches), max(threads))
        steps = [(lane, batch, k) for lane in self.lanes for k in threads for batch in batches]
        for done, (lane, batch, k) in enumerate(steps, start=1):
            try:
                result = await lane.run([example_item(info, batch)], k, model=model)
            except asyncio.CancelledError:
                await lane.settled()  # a caller that stopped waiting finds idle lanes
                raise
            if isinstance(result.outputs[0], Exception):
                raise ModelError(f"model {info.name} fails on an example batch of {batch}: {result.outputs[0]}")
            if progress is not None:
                progress(done, len(steps))

    def keep(self, allowance: Allowance) -> None:
        """See `interface.LanePool.keep`."""
        self._allowance = allowance
        self._share_memory(len(self.lanes))

    async def close(self) -> None:
        """See `interface.LanePool.close`."""
        self._closing = True
        lanes, self.lanes = self.lanes, ()
        for lane in lanes:
            await self._stop_replacing(lane)
            await lane.close()
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        if self._fork_server is not None:
            await self._fork_server.close()
            self._fork_server = None

    async def _watch_fork_server(self, reader: asyncio.StreamReader) -> None:
        """Listens to the fork server, and starts another one when it ends."""
        while True:
            while (message := await read_message(reader)) is not None:
                if not self._closing:
                    event(
                        _log,
                        "lane.ended",
                        logging.WARNING,
                        lane=message["ended"],
                        pid=message["pid"],
                        how=message["how"],
                    )
            ended, self._fork_server = self._fork_server, None
            if ended is not None:
                event(_log, "fork_server.ended", logging.ERROR, pid=ended.pid)
                await ended.close()
            attempt = 0
            while self._fork_server is None:
                await asyncio.sleep(_backoff_s(attempt))
                attempt += 1
                try:
                    self._fork_server, reader, _ = await ForkServerClient.start(self._specs)
                except (LaneError, ModelError) as error:
                    event(_log, "fork_server.not_started", logging.ERROR, attempt=attempt, error=error)
            async with self._fork_server_changed:
                self._fork_server_changed.notify_all()

    async def _fork(self, lane: WorkerLane) -> None:
        """Gives the lane a new process. Raises LaneCrashed or LaneError when it does not start."""
        async with self._fork_server_changed:
            await self._fork_server_changed.wait_for(lambda: self._fork_server is not None)
        assert self._fork_server is not None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._fork_server.fork(lane.id, [theirs.fileno(), lane.inputs.fd, lane.outputs.fd])
            except LaneError:
                ours.close()
                raise
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await lane.connect(*await asyncio.open_unix_connection(sock=ours))
        except TimeoutError:
            self._kill(lane)
            raise LaneCrashed(f"lane {lane.id} did not start within {_START_TIMEOUT_S:g} s") from None

    def _share_memory(self, lanes: int) -> None:
        keep_bytes = self._allowance(lanes)
        for lane in self.lanes:
            lane.keep_bytes = keep_bytes

    async def _warm(self, lane: WorkerLane) -> None:
        """Runs the largest batch of every model on a new lane, before it gets any request."""
        for model, (batch, threads) in self._warmed.items():
            await lane.run([example_item(self.models[model], batch)], threads, _START_TIMEOUT_S, model)

    async def _replace(self, lane: WorkerLane) -> None:
        attempt = lane.crashes - 1
        try:
            while not lane.healthy:
                await asyncio.sleep(_backoff_s(attempt))
                attempt += 1
                try:
                    await self._fork(lane)
                except LaneError as error:
                    event(_log, "lane.not_started", logging.ERROR, lane=lane.id, attempt=attempt, error=error)
        finally:
            del self._replacing[lane.id]

    async def _stop_replacing(self, lane: WorkerLane) -> None:
        task = self._replacing.get(lane.id)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _on_lane_change(self, lane: WorkerLane) -> None:
        if not lane.healthy and lane in self.lanes and lane.id not in self._replacing:
            self._replacing[lane.id] = asyncio.create_task(self._replace(lane), name=f"replace-lane-{lane.id}")
        self._tell_listeners()

    def _kill(self, lane: WorkerLane) -> None:
        if self._fork_server is not None:
            self._fork_server.kill(lane.id)

    def _tell_listeners(self) -> None:
        for callback in self._listeners:
            callback()


def _backoff_s(attempt: int) -> float:
    return _BACKOFF_S[min(max(attempt, 0), len(_BACKOFF_S) - 1)]
