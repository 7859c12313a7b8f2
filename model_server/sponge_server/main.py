"""Runs a server from its settings until a signal ends it: what `sponge serve` calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

import uvloop

from sponge_core.errors import SpongeError, needs_extra
from sponge_server.app import Server
from sponge_server.observability.access_log import AccessLog
from sponge_server.observability.observers import RequestObserver
from sponge_server.settings import ServerSettings
from sponge_server.startup.startup import spec_of
from sponge_server.workers.allocator import keep_little
from sponge_server.workers.interface import ModelSpec
from sponge_server.workers.pool import WorkerPool
from sponge_system.logs import set_up
from sponge_system.os_scheduling import wake_promptly

__all__ = ["serve"]


def serve(settings: ServerSettings, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        announce: called once, when the server is ready, with the line that names its addresses.

    Raises:
        SpongeError: the server cannot start; the message says why.
    """
    # The gRPC library logs every client that breaks its protocol. The client learns of it anyway.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    set_up(settings.log_level, settings.log_format)
    wake_promptly()
    keep_little()
    with contextlib.ExitStack() as stack:
        observers: list[RequestObserver] = [AccessLog()] if settings.log_level == "debug" else []
        if settings.tracing:
            observers.append(_tracing(stack))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, announce, observers))


async def _serve(settings: ServerSettings, announce: Callable[[str], None], observers: list[RequestObserver]) -> None:
    pool = WorkerPool([spec_of(settings, model) for model in settings.loaded], settings.start_limits, guarded=True)

    def another(spec: ModelSpec) -> WorkerPool:
        return WorkerPool([spec], settings.start_limits, beside=True, guarded=True)

    await Server(settings, pool, another, announce, observers=observers).run()


def _tracing(stack: contextlib.ExitStack) -> RequestObserver:
    """The observer that makes spans; the stack sends the last of them. Raises SpongeError."""
    try:
        from sponge_server.observability.tracing import Tracing
    except ImportError as error:
        raise SpongeError(needs_extra("--tracing", str(error.name), "tracing")) from None
    return stack.enter_context(contextlib.closing(Tracing()))
