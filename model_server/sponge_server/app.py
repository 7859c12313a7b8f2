"""The server: from settings to ready to drained.

Its life: listen, load the models, warm up the lanes, take a profile, be ready, serve until told to stop, drain, end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import sponge_compiled as compiled
from sponge_core.addresses import authority
from sponge_server.collector import give_back_regularly, spare_what_stays
from sponge_server.control.control_app import Control, control_app
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.inference_service import InferenceService
from sponge_server.lifecycle import Lifecycle, Loaded
from sponge_server.observability.metrics import Metrics
from sponge_server.observability.observers import RequestObserver
from sponge_server.protocol.grpc_keys import KeyInterceptor
from sponge_server.protocol.grpc_server import GrpcServer
from sponge_server.protocol.grpc_service import inference_handler
from sponge_server.protocol.http_app import data_app
from sponge_server.protocol.http_connection import CLOSE_GRACE_S, HttpLimits
from sponge_server.protocol.http_server import HttpServer, PortTls, listen, make_room
from sponge_server.protocol.model_control import controls
from sponge_server.protocol.rest import RestEndpoint
from sponge_server.protocol.tls_listener import MOST_HANDSHAKES
from sponge_server.repository import Repository
from sponge_server.security.access import Access
from sponge_server.settings import ServerSettings
from sponge_server.startup.profile_board import ProfileBoard
from sponge_server.startup.startup import Prepared, prepare
from sponge_server.wiring import Parts, build
from sponge_server.workers.interface import LanePool, ModelSpec
from sponge_server.workers.versioned_pool import VersionedPool
from sponge_system.logs import event

__all__ = ["Server"]

log = logging.getLogger(__name__)

T = TypeVar("T")

DRAIN_POLL_S = 0.01

LAST_REFUSALS_S = 0.25
"""From the last answer until the ports close. A client that just got an answer sends its next request; on an open gRPC
channel the library would cancel that call, while the service refuses it."""

HURRIED_GRACE_S = 0.2
"""Time to send the refusals of what a second signal gave up."""


class Server:
    """Models behind their ports. `run` is its whole life."""

    def __init__(
        self,
        settings: ServerSettings,
        pool: LanePool,
        another: Callable[[ModelSpec], LanePool],
        announce: Callable[[str], None],
        observers: Sequence[RequestObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A server that has not started; certificates, keys and token are read. Raises SpongeError.

        Args:
            pool: for the models of the settings; it has not started.
            another: makes the pool for another version of a model.
            announce: called once, when the server is ready, with the line that names its addresses.
            observers: told about every request and batch.
            clock: monotonic seconds.
        """
        self._settings = settings
        self._pool = VersionedPool(pool)
        self._another = another
        self._announce = announce
        self._observers = observers
        self._clock = clock
        self._lifecycle = Lifecycle([model.name for model in settings.models], restart_s=settings.restart_s)
        self._metrics = Metrics()
        self._metrics.core_compiled.set(compiled.kind() == "compiled")
        self._access = Access(settings, self._metrics)
        self._service: Loaded[InferenceService] = Loaded(self._lifecycle)
        self._control: Loaded[Control] = Loaded(self._lifecycle)
        self._repository: Loaded[Repository] = Loaded(self._lifecycle)
        self._quota = CpuQuota(settings.cores)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Raises SpongeError when it cannot start."""
        settings, lifecycle, metrics, access = self._settings, self._lifecycle, self._metrics, self._access
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        event(log, "core.loaded", kind=compiled.kind())
        data_socket = listen(settings.host, settings.http_port, "--http-port")
        control_socket = listen(settings.host, settings.control_port, "--control-port")
        limits = self._limits()
        models, sources = controls(settings, self._repository, access.control_token)
        rest = RestEndpoint(self._service, metrics, data_app(self._service, models), access.keys)
        data_tls, control_tls = self._tls()
        data = HttpServer(rest, data_socket, limits, data_tls)
        rpc = GrpcServer(
            inference_handler(self._service, metrics, models),
            settings.host,
            settings.grpc_port,
            max_connections=limits.max_connections,
            certificates=access.certificates,
            interceptors=() if access.keys is None else (KeyInterceptor(access.keys, metrics.problems),),
        )
        boards = [ProfileBoard(self._clock, model.source) for model in settings.loaded]
        control_endpoints = control_app(self._control, metrics, access.control_token, boards[0], sources)
        control = HttpServer(control_endpoints, control_socket, limits, control_tls)
        metrics.connections.labels("http").set_function(lambda: data.connections)
        metrics.connections.labels("control").set_function(lambda: control.connections)
        watching = [loop.create_task(access.files.run()), loop.create_task(give_back_regularly())]
        looping: asyncio.Task[None] | None = None
        grace_s: float = CLOSE_GRACE_S
        try:
            # The ports answer before any model is loaded: health is known from the first moment, readiness comes later.
            await control.start()
            await data.start()
            await rpc.start()
            prepared = await self._unless_stopped(
                prepare(settings, self._pool, self._quota, lifecycle, metrics, boards)
            )
            if prepared is not None:
                parts = build(
                    settings,
                    prepared,
                    boards,
                    self._pool,
                    self._another,
                    self._quota,
                    lifecycle,
                    metrics,
                    self._observers,
                    self._clock,
                    rpc.tell_ready,
                    access.keys,
                )
                self._service.part, self._control.part = parts.service, parts.control
                self._repository.part = parts.repository
                looping = loop.create_task(parts.control_loop.run())
                await rpc.accept_messages(parts.service.message_bytes)
                spare_what_stays()
                lifecycle.enter("ready")
                await rpc.set_ready(True)
                self._announce(self._addresses(prepared, data.port, rpc.port, control.port))
                await self._stop.wait()
                grace_s = await self._drain(parts, data, rpc)
        finally:
            for task in watching:
                task.cancel()
            if looping is not None:
                looping.cancel()
            await asyncio.gather(rpc.stop(min(grace_s, CLOSE_GRACE_S)), data.stop(grace_s))
            await control.stop(min(grace_s, CLOSE_GRACE_S))
            if self._repository.part is not None:
                await self._repository.part.close()
            await self._pool.close()
            self._quota.close()

    def _addresses(self, prepared: Sequence[Prepared], http_port: int, grpc_port: int, control_port: int) -> str:
        s = "" if self._access.certificates is None else "s"
        rest, rpc, control = (authority(self._settings.host, port) for port in (http_port, grpc_port, control_port))
        names = ", ".join(model.info.name for model in prepared)
        profiles = ", ".join(model.profile_name for model in prepared)
        return (
            f"sponge: serving {names} at http{s}://{rest} and grpc{s}://{rpc} "
            f"(control at http{s}://{control}), {self._quota.in_force:g} cores, "
            f"{len(self._pool.lanes)} lanes, profile {profiles}"
        )

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`, or None when the server was told to stop before it was done."""
        task = asyncio.get_running_loop().create_task(work)
        stopped = asyncio.get_running_loop().create_task(self._stop.wait())
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait((task,))
        return None

    async def _drain(self, parts: Parts, data: HttpServer, rpc: GrpcServer) -> float:
        """Answers what was accepted; returns how long sending the last answers may take, in seconds.

        Readiness ends at once. For `drain_delay_s`, requests are still accepted, because their senders do not know yet
        that they should go elsewhere. For `drain_s` after that, the accepted requests are still answered.
        """
        settings, lifecycle = self._settings, self._lifecycle
        engine, uploads = parts.engine, parts.uploads
        lifecycle.enter("leaving")
        parts.news.publish(news=True)
        parts.load.changed()
        data.leave()
        await rpc.set_ready(False)
        giving_up = asyncio.get_running_loop().create_task(parts.repository.give_up())
        event(log, "drain.begin", requests=engine.jobs, uploads=len(uploads), delay_s=settings.drain_delay_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), settings.drain_delay_s)
        lifecycle.enter("draining")
        parts.load.changed()
        end = self._clock() + settings.drain_s
        # Polled, because it happens once and depends on two counts.
        while (engine.jobs or uploads) and self._clock() < end and not self._hurry.is_set():  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_S)
        event(log, "drain.end", unanswered=engine.jobs, uploads=len(uploads), hurried=self._hurry.is_set())
        engine.fail_all()
        await giving_up
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), LAST_REFUSALS_S)
        return HURRIED_GRACE_S if self._hurry.is_set() else max(CLOSE_GRACE_S, end - self._clock())

    def _on_signal(self, number: int) -> None:
        """The first signal begins an orderly end, the second one cuts it short."""
        if self._stop.is_set():
            event(log, "drain.hurried", logging.WARNING, signal=signal.Signals(number).name)
            self._hurry.set()
        self._stop.set()

    def _tls(self) -> tuple[PortTls | None, PortTls | None]:
        """TLS of the REST port and of the control port."""
        certificates, failures = self._access.certificates, self._metrics.handshake_failures
        if certificates is None:
            return None, None
        return PortTls(lambda: certificates.data, failures), PortTls(lambda: certificates.control, failures)

    def _limits(self) -> HttpLimits:
        settings = self._settings
        handshakes = 0 if self._access.certificates is None else 2 * MOST_HANDSHAKES
        connections = make_room(settings.max_connections, settings.max_lanes, handshakes)
        return HttpLimits(
            header_timeout_s=settings.header_timeout_s,
            keep_alive_s=settings.keep_alive_s,
            write_timeout_s=settings.write_timeout_s,
            max_connections=connections,
            backlog=settings.backlog,
        )
