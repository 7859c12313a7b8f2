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
import time
from collections.abc import Callable, Sequence

from sponge_server.backoff import backoff_s
from sponge_server.workers.examples import example_item
from sponge_server.workers.fork_client import ForkServerClient
from sponge_server.workers.interface import (
    Allowance,
    LaneError,
    LaneHung,
    ModelError,
    ModelInfo,
    ModelSpec,
    NotFiniteError,
    Progress,
    StartLimits,
)
from sponge_server.workers.ipc import Message
from sponge_server.workers.lane import WorkerLane
from sponge_system.logs import event

__all__ = ["WorkerPool", "extremes_first"]

_log = logging.getLogger("sponge.lanes")

_START_FACTOR, _LEAST_START_S = 20.0, 5.0
"""A lane that takes this many times the slowest start before it hangs, but never less than so many seconds."""


class WorkerPool:
    """Implements `interface.LanePool`."""

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        limits: StartLimits = StartLimits(),
        *,
        beside: bool = False,
        guarded: bool = False,
    ) -> None:
        """Starts nothing yet.

        Args:
            specs: at least one model.
            beside: other lanes serve while this pool starts: it leaves them the CPU.
            guarded: from `start` until `memory_plan.lift_guard`, its processes are refused more than the memory limit
                has room for: the model says so, and the kernel need not end anything. If it must, they go first.
        """
        self._specs = tuple(specs)
        self._limits = limits
        self._beside = beside
        self._guarded = guarded
        self._models: tuple[ModelInfo, ...] = ()
        self._fork_server: ForkServerClient | None = None
        self._fork_server_changed = asyncio.Condition()
        self._watching: asyncio.Task[None] | None = None
        self.lanes: tuple[WorkerLane, ...] = ()
        self._forked: dict[int, WorkerLane] = {}  # by id: lanes that have a process, or asked for one
        self._slowest_start_s: float | None = None
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
        return fork_server + self.lane_pids

    @property
    def lane_pids(self) -> list[int]:
        """See `interface.LanePool.lane_pids`."""
        return [lane.pid for lane in self.lanes if lane.pid is not None]

    def add_listener(self, callback: Callable[[], None]) -> None:
        self._listeners.append(callback)

    async def start(self, lanes: int) -> None:
        """See `interface.LanePool.start`."""
        fork_server, self._models = await ForkServerClient.start(self._specs, self._limits, self._beside, self._guarded)
        self._fork_server = fork_server
        self._watching = asyncio.create_task(self._watch_fork_server(fork_server), name="fork-server")
        await self.scale(lanes)

    async def scale(self, lanes: int) -> None:
        """See `interface.LanePool.scale`."""
        if lanes < 1:
            raise LaneError(f"{lanes} lanes requested: at least 1 is needed")
        async with self._scaling:
            extra, self.lanes = self.lanes[lanes:], self.lanes[:lanes]
            if extra:
                self._tell_listeners()
            for lane in extra:
                await self._stop_replacing(lane)
                await lane.settled()
                await self._end(lane)
            self._share_memory(lanes)
            while len(self.lanes) < lanes:
                lane = WorkerLane(len(self.lanes), self.models, self._on_lane_change, self._kill)
                lane.keep_bytes = self._allowance(lanes)
                try:
                    await self._fork(lane, self._limits.example_s)
                    await self._warm(lane)
                except BaseException:
                    await self._end(lane)
                    raise
                self.lanes = (*self.lanes, lane)
                self._tell_listeners()

    async def warm_up(
        self, batches: Sequence[int], threads: Sequence[int], progress: Progress | None = None, model: int = 0
    ) -> None:
        """See `interface.LanePool.warm_up`."""
        info = self.models[model]
        self._warmed[model] = (max(batches), max(threads))
        steps = [(lane, batch, k) for batch, k in extremes_first(batches, threads) for lane in self.lanes]
        limit_s = self._limits.example_s
        for done, (lane, batch, k) in enumerate(steps, start=1):
            try:
                result = await lane.run([example_item(info, batch)], k, limit_s, model)
            except asyncio.CancelledError:
                await lane.settled()  # a caller that stopped waiting finds idle lanes
                raise
            except LaneHung:
                raise ModelError(
                    f"model {info.name} did not finish an example batch of {batch} on {k} threads within {limit_s:g} s "
                    "of the warm-up: it hangs, or it needs more CPU or a larger --example-s"
                ) from None
            failed = result.outputs[0]
            if isinstance(failed, Exception) and not isinstance(failed, NotFiniteError):
                raise ModelError(f"model {info.name} fails on an example batch of {batch}: {failed}")
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
            await self._end(lane)
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        if self._fork_server is not None:
            await self._fork_server.close()
            self._fork_server = None

    async def _watch_fork_server(self, fork_server: ForkServerClient) -> None:
        """Listens to the fork server, and starts another one when it ends, however often that takes."""
        while True:
            try:
                while (message := await fork_server.receive()) is not None:
                    self._heard(message)
            except Exception:  # noqa: BLE001 - the process is replaced, whatever it said
                _log.exception("fork_server.bug")
            self._fork_server = None
            event(_log, "fork_server.ended", logging.ERROR, pid=fork_server.pid)
            try:
                await fork_server.close()
            except Exception:  # noqa: BLE001 - it has ended, which is all that matters
                _log.exception("fork_server.bug")
            for lane in self._forked.values():
                lane.process_ended()
            fork_server = await self._another_fork_server()
            async with self._fork_server_changed:
                self._fork_server = fork_server
                self._fork_server_changed.notify_all()

    async def _another_fork_server(self) -> ForkServerClient:
        attempt = 0
        while True:
            await asyncio.sleep(backoff_s(attempt))
            attempt += 1
            try:
                fork_server, _ = await ForkServerClient.start(self._specs, self._limits, self._beside)
            except Exception as error:  # noqa: BLE001 - whatever it is, without this process there is no lane ever again
                event(_log, "fork_server.not_started", logging.ERROR, attempt=attempt, error=_said(error))
            else:
                return fork_server

    def _heard(self, message: Message) -> None:
        """News of the fork server, see `ForkServerClient.receive`."""
        if "ended" not in message:
            lane = self._forked.get(message["lane"])
            if lane is None:
                return
            if "error" in message:
                lane.not_forked(message["error"])
            else:
                lane.forked(message["pid"])
            return
        lane = self._forked.get(message["ended"])
        if lane is not None and not self._closing:
            fields = {"lane": message["ended"], "pid": message["pid"], "how": message["how"]}
            event(_log, "lane.ended", logging.WARNING, **fields)
            lane.process_ended(message["pid"])

    async def _fork(self, lane: WorkerLane, limit_s: float) -> None:
        """Gives the lane a new process. Raises LaneError or OSError when it does not start within `limit_s` seconds."""
        try:
            async with asyncio.timeout(self._limits.load_s), self._fork_server_changed:
                await self._fork_server_changed.wait_for(lambda: self._fork_server is not None)
        except TimeoutError:
            raise LaneError("the process that holds the models ended and could not be started again in time") from None
        assert self._fork_server is not None
        began = time.monotonic()
        ours, theirs = socket.socketpair()
        self._forked[lane.id] = lane
        with theirs:
            try:
                self._fork_server.fork(lane.id, [theirs.fileno(), lane.inputs.fd, lane.outputs.fd])
            except LaneError:
                ours.close()
                raise
        try:
            async with asyncio.timeout(limit_s):
                await lane.connect(ours)
        except TimeoutError:
            raise LaneHung(
                f"lane {lane.id} was not ready within {limit_s:g} s: the model hangs in its first batch, or it needs "
                "more CPU or a larger --example-s"
            ) from None
        self._slowest_start_s = max(self._slowest_start_s or 0.0, time.monotonic() - began)

    async def _end(self, lane: WorkerLane) -> None:
        """Ends a lane for good."""
        if self._forked.get(lane.id) is lane:
            del self._forked[lane.id]
        await lane.close()

    def _share_memory(self, lanes: int) -> None:
        keep_bytes = self._allowance(lanes)
        for lane in self.lanes:
            lane.keep_bytes = keep_bytes

    async def _warm(self, lane: WorkerLane) -> None:
        """Runs the largest batch of every model on a new lane, before it gets any request."""
        for model, (batch, threads) in self._warmed.items():
            await lane.run([example_item(self.models[model], batch)], threads, self._limits.example_s, model)

    async def _replace(self, lane: WorkerLane) -> None:
        """Starts processes for the lane until one is ready."""
        attempt = lane.crashes - 1
        tries = 0
        try:
            while not lane.healthy:
                await asyncio.sleep(backoff_s(attempt))
                attempt += 1
                tries += 1
                try:
                    await self._fork(lane, self._start_limit_s(tries))
                except Exception as error:  # noqa: BLE001 - whatever it is, the lane must not be lost for good
                    event(_log, "lane.not_started", logging.ERROR, lane=lane.id, attempt=tries, error=_said(error))
        finally:
            del self._replacing[lane.id]

    def _start_limit_s(self, tries: int) -> float:
        """Longest time for a lane to start again: much longer than before, and twice as long with every try.

        A lane that hangs is noticed soon, and a server that was made smaller still gets its lanes.
        """
        usual_s = self._slowest_start_s or self._limits.example_s
        return min(self._limits.example_s, max(_LEAST_START_S, _START_FACTOR * usual_s) * 2.0 ** min(tries - 1, 10))

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

    def _kill(self, pid: int) -> None:
        if self._fork_server is not None:
            self._fork_server.kill(pid)

    def _tell_listeners(self) -> None:
        for callback in self._listeners:
            callback()


def extremes_first(batches: Sequence[int], threads: Sequence[int]) -> list[tuple[int, int]]:
    """Every pair of batch size and threads, first those of the smallest and largest of both."""
    ends = {(batch, k) for batch in (min(batches), max(batches)) for k in (min(threads), max(threads))}
    return sorted(((batch, k) for k in threads for batch in batches), key=lambda pair: pair not in ends)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
