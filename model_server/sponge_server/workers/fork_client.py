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
from collections.abc import Sequence
from dataclasses import asdict

from sponge_server.workers.fork_server import ENVIRONMENT
from sponge_server.workers.interface import LaneError, ModelError, ModelInfo, ModelSpec, TensorSpec
from sponge_server.workers.ipc import Message, read_message, send
from sponge_server.workers.output import OutputLog

__all__ = ["ForkServerClient"]

_log = logging.getLogger("sponge.lanes")

_CLOSE_TIMEOUT_S = 5.0


class ForkServerClient:
    """A running fork server with its models loaded; created by `start`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        commands: socket.socket,
        writer: asyncio.StreamWriter,
        output: OutputLog,
    ) -> None:
        self._process = process
        self._output = output
        self._commands = commands
        self._writer = writer

    @classmethod
    async def start(
        cls, specs: Sequence[ModelSpec]
    ) -> tuple[ForkServerClient, asyncio.StreamReader, tuple[ModelInfo, ...]]:
        """Returns when all models are loaded. The reader then reports ended lanes. Raises ModelError, LaneError."""
        ours, theirs = socket.socketpair()
        output = OutputLog()
        with theirs, output.writer():
            try:
                process = _spawn(theirs.fileno(), output.fd)
            except OSError as error:
                ours.close()
                raise LaneError(f"cannot start the process that loads the models: {error.strerror}") from None
        # The stream below owns `ours`; descriptors must be sent on another socket object.
        commands = ours.dup()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        client = cls(process, commands, writer, output)
        try:
            client._send({"load": [asdict(spec) for spec in specs]})
            loaded = []
            for spec in specs:
                message = await read_message(reader)
                if message is None:
                    raise ModelError(f"model {spec.name} ended its process while it was loading; its output is above")
                if "failed" in message:
                    raise ModelError(f"model {spec.name}: {message['failed']}")
                loaded.append(_info(message["loaded"]))
        except BaseException:
            await client.close()
            raise
        return client, reader, tuple(loaded)

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, lane: int, fds: list[int]) -> None:
        """Requests a process for `lane` with these descriptors. Raises LaneError when the fork server is gone."""
        self._send({"fork": lane}, fds)

    def kill(self, lane: int) -> None:
        """Requests to kill the lane's process. If the fork server is gone, so is the lane."""
        with contextlib.suppress(LaneError):
            self._send({"kill": lane})

    async def close(self) -> None:
        """Ends the fork server and with it every lane."""
        self._writer.close()
        self._commands.close()
        try:
            await asyncio.to_thread(self._process.wait, _CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # It is still loading, or hangs in a model's code.
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        await self._output.finish()

    def _send(self, message: Message, fds: list[int] | None = None) -> None:
        try:
            send(self._commands, message, fds)
        except OSError:
            raise LaneError("the process that holds the models has ended; it is being started again") from None


def _spawn(fd: int, output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "sponge_server.workers.fork_server", str(fd)],
        pass_fds=[fd],
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=output,  # a model that prints must not write between the server's own lines
        stderr=output,
        start_new_session=True,  # an interrupt at the terminal goes to the server only, which drains first
    )


def _info(fields: Message) -> ModelInfo:
    def specs(name: str) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(s["name"], s["datatype"], tuple(s["shape"])) for s in fields[name])

    labels = fields["labels"]
    return ModelInfo(
        **fields
        | {
            "inputs": specs("inputs"),
            "outputs": specs("outputs"),
            "labels": None if labels is None else tuple(labels),
        }
    )
