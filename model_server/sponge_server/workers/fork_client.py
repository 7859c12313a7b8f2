"""The server's handle on a fork server process: starts it, and asks it to fork and kill lanes.

One object is one process; the pool creates another when it ends. Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from sponge_server.workers.family import end_family, go_on, is_starved, new_mark
from sponge_server.workers.fork_server import ENVIRONMENT
from sponge_server.workers.interface import LaneError, ModelError, ModelInfo, ModelSpec, StartLimits, TensorSpec
from sponge_server.workers.ipc import Message, read_message, send
from sponge_server.workers.output import OutputLog
from sponge_server.workers.row_size import RowSize
from sponge_system.logs import event

__all__ = ["ForkServerClient"]

_log = logging.getLogger("sponge.lanes")

ANSWER_S = 3.0
"""A fork server that does not answer a request for this long hangs, and is killed: a fork takes milliseconds. One that
was stopped goes on within a third of this."""

STARVED_S = 30.0
"""One that waits for the CPU or a disk all the while is starved, which a restart makes worse: it has so long."""

_CLOSE_TIMEOUT_S = 5.0
_CLOSE_POLL_S = 0.01
_WATCH_POLL_S = 1.0


class ForkServerClient:
    """A running fork server with its models loaded; created by `start`."""

    def __init__(
        self, process: subprocess.Popen[bytes], mark: dict[str, str], sock: socket.socket, output: OutputLog
    ) -> None:
        self._process = process
        self._mark = mark
        self._output = output
        self._sock = sock
        self._lanes: set[int] = set()  # processes of lanes that have not ended
        self._reader = asyncio.StreamReader()  # until `_connect`
        self._writer: asyncio.StreamWriter | None = None
        self._watching = asyncio.create_task(self._watch(), name="fork-server-process")
        self._waiting = 0  # requests without an answer
        self._asked_at = 0.0  # when the wait for the next answer began, on the event loop's clock
        self._overdue: asyncio.TimerHandle | None = None

    @classmethod
    async def start(
        cls, specs: Sequence[ModelSpec], limits: StartLimits, beside: bool = False, guarded: bool = False
    ) -> tuple[ForkServerClient, tuple[ModelInfo, ...]]:
        """Returns when all models are loaded.

        Args:
            beside, guarded: see `WorkerPool`.

        Raises ModelError, LaneError.
        """
        try:
            client = cls._spawned()
        except OSError as error:
            raise LaneError(f"the process that loads the models cannot be started: {error.strerror}") from None
        try:
            await client._connect()
            models = [asdict(spec) for spec in specs]
            client._send({"load": models, "example_s": limits.example_s, "beside": beside, "guarded": guarded})
            return client, tuple([await client._loaded(spec, limits.load_s) for spec in specs])
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                client._process.kill()  # it has nothing to bring to an end, and may be taking memory
            await client.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    async def receive(self) -> Message | None:
        """Waits for news of a lane; None when the fork server has ended.

        The news are `{"done": "fork", "lane", "pid"}` or, if that failed, `{"done": "fork", "lane", "error"}`, and
        `{"ended": lane, "pid", "how"}`.
        """
        while (message := await read_message(self._reader)) is not None:
            if "done" in message:
                self._answered()
            if "ended" in message:
                self._lanes.discard(message["pid"])
            elif "pid" in message:
                self._lanes.add(message["pid"])
            if message.get("done") != "kill":
                return message
        return None

    def fork(self, lane: int, fds: list[int]) -> None:
        """Requests a process for `lane` with these descriptors. Raises LaneError when the fork server is gone."""
        self._request({"fork": lane}, fds)

    def kill(self, pid: int) -> None:
        """Requests to kill a lane's process. If it has ended, or the fork server has, nothing happens."""
        with contextlib.suppress(LaneError):
            self._request({"kill": pid})

    async def close(self) -> None:
        """Ends the fork server, and with it every lane and what models have started."""
        self._watching.cancel()
        self._disarm()
        if self._writer is not None:
            self._writer.close()
        if not await self._ended_within(_CLOSE_TIMEOUT_S):
            self._process.kill()  # it is still loading, or hangs
            if not await self._ended_within(_CLOSE_TIMEOUT_S):  # it waits for a disk, or is frozen
                event(_log, "fork_server.left", logging.ERROR, pid=self.pid)
        await end_family(self._mark, self._lanes)
        await self._output.finish()

    async def _ended_within(self, limit_s: float) -> bool:
        """Polls, because waiting in a thread fails where no thread can be started."""
        until = time.monotonic() + limit_s
        while self._process.poll() is None and time.monotonic() < until:  # noqa: ASYNC110 - as in `_watch`
            await asyncio.sleep(_CLOSE_POLL_S)
        return self._process.poll() is not None

    @classmethod
    def _spawned(cls) -> ForkServerClient:
        """A fork server that has no models yet. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                output, mark = OutputLog(), new_mark()
                with output.writer():
                    process = _spawn(theirs.fileno(), output.fd, mark)
        except BaseException:
            ours.close()
            raise
        return cls(process, mark, ours, output)

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)

    async def _loaded(self, spec: ModelSpec, load_s: float) -> ModelInfo:
        try:
            async with asyncio.timeout(load_s):
                message = await self.receive()
        except TimeoutError:
            raise ModelError(
                f"model {spec.name} was not loaded within {load_s:g} s: it hangs, waits for a download, or needs more "
                "CPU or a larger --load-s; its output is above"
            ) from None
        if message is None:
            raise ModelError(f"model {spec.name} ended its process while it was loading; its output is above")
        if "failed" in message:
            raise ModelError(f"model {spec.name}: {message['failed']}")
        return _info(message["loaded"])

    async def _watch(self) -> None:
        """Notices the end of the process; its socket may stay open in a child that a model has forked.

        A process that was stopped goes on.
        """
        while self._process.poll() is None:
            if go_on(self.pid):
                event(_log, "fork_server.stopped", logging.WARNING, pid=self.pid)
            await asyncio.sleep(_WATCH_POLL_S)
        self._hang_up()

    def _request(self, message: Message, fds: list[int] | None = None) -> None:
        self._send(message, fds)
        self._waiting += 1
        if self._overdue is None:
            self._arm()

    def _answered(self) -> None:
        self._waiting -= 1
        self._disarm()
        if self._waiting:
            self._arm()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._asked_at = loop.time()
        self._overdue = loop.call_later(ANSWER_S, self._unanswered)

    def _disarm(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _unanswered(self) -> None:
        loop = asyncio.get_running_loop()
        waited_s = loop.time() - self._asked_at
        if waited_s < STARVED_S and is_starved(self.pid):
            event(_log, "fork_server.starved", logging.WARNING, pid=self.pid, for_s=round(waited_s, 1))
            self._overdue = loop.call_later(ANSWER_S, self._unanswered)
            return
        event(_log, "fork_server.hung", logging.ERROR, pid=self.pid, for_s=round(waited_s, 1))
        self._process.kill()
        self._hang_up()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _send(self, message: Message, fds: list[int] | None = None) -> None:
        # On the socket itself, because a stream sends no descriptors. Nothing else writes to it.
        try:
            send(self._sock, message, fds)
        except OSError as error:
            raise LaneError(f"the process that holds the models cannot be reached: {error.strerror}") from None


def _spawn(fd: int, output: int, mark: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "sponge_server.workers.fork_server", str(fd)],
        pass_fds=[fd],
        env=os.environ | ENVIRONMENT | mark,
        stdin=subprocess.DEVNULL,
        stdout=output,  # a model that prints must not write between the server's own lines
        stderr=output,
        start_new_session=True,  # an interrupt at the terminal goes to the server only, which drains first
    )


def _info(fields: Message) -> ModelInfo:
    def specs(name: str) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(**s | {"shape": tuple(s["shape"])}) for s in fields[name])

    labels, size = fields["labels"], fields["size"]
    return ModelInfo(
        **fields
        | {
            "inputs": specs("inputs"),
            "outputs": specs("outputs"),
            "labels": None if labels is None else tuple(labels),
            "size": None if size is None else RowSize(**size),
            "integers": tuple((least, largest) for least, largest in fields["integers"]),
        }
    )
