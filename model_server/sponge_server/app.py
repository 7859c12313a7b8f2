"""The server put together: from settings to ready to drained. The only module that knows all the parts.

Order of life: listen, load the model, warm the lanes up, take a profile, be ready, serve until told to stop, drain,
end.
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
from sponge_core.dispatch.registry import POLICIES
from sponge_server.control.control_app import Control, control_app
from sponge_server.control.control_loop import Heartbeat
from sponge_server.control.projector import Planner
from sponge_server.control.reconfigure import Applier
from sponge_server.control.state_publisher import StateBoard
from sponge_server.dataplane import DataPlane
from sponge_server.deadlines import SloPolicy
from sponge_server.engine.cpu_quota import Cores
from sponge_server.engine.engine import Engine
from sponge_server.engine.scheduler import Scheduler
from sponge_server.intake import Intake
from sponge_server.lifecycle import Status
from sponge_server.model_handle import ServedModel
from sponge_server.observability.logs import event
from sponge_server.observability.metrics import Metrics
from sponge_server.observability.observers import Witness
from sponge_server.observability.request_stats import Books
from sponge_server.protocol.grpc_server import GrpcServer
from sponge_server.protocol.http_app import data_app
from sponge_server.protocol.http_server import CLOSE_GRACE_S, HttpLimits, HttpServer, listen, make_room
from sponge_server.protocol.rest import InferEndpoint
from sponge_server.settings import ServerSettings
from sponge_server.startup.startup import Prepared, prepare
from sponge_server.uploads import BodyMemory, Uploads
from sponge_server.workers.interface import LanePool

__all__ = ["Server"]

log = logging.getLogger(__name__)

T = TypeVar("T")

DRAIN_POLL_S = 0.01

LAST_REFUSALS_S = 0.25
"""After the last answer, before the ports close: who just got one asks again, and on an open gRPC channel the library
would cancel that call, where the service refuses it."""

HURRIED_GRACE_S = 0.2
"""For the refusals of what was given up on a second signal."""


class Server:
    """Models behind their ports. `run` is its whole life."""

    def __init__(
        self,
        settings: ServerSettings,
        pool: LanePool,
        announce: Callable[[str], None],
        control_token: str | None = None,
        witnesses: Sequence[Witness] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A server that has not started.

        Args:
            announce: gets the one line that says where the server can be reached, once it is ready.
            control_token: bearer token of the control endpoints; None keeps them closed.
            witnesses: who is told what becomes of every request and batch.
        """
        self._settings = settings
        self._pool = pool
        self._announce = announce
        self._witnesses = witnesses
        self._clock = clock
        self._status = Status()
        self._metrics = Metrics()
        self._metrics.core_compiled.set(compiled.kind() == "compiled")
        self._uploads = Uploads()
        self._plane = DataPlane([model.name for model in settings.models], self._status)
        self._control = Control(self._status, self._metrics, control_token)
        self._cores = Cores(settings.cores)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._planner: Planner | None = None

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Raises SpongeError when it cannot start."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        event(log, "core.loaded", kind=compiled.kind())
        intake = self._intake()
        data_socket = listen(settings.host, settings.http_port, "--http-port")
        control_socket = listen(settings.host, settings.control_port, "--control-port")
        limits = self._limits()
        data = HttpServer(data_app(self._plane, InferEndpoint(intake)), data_socket, limits)
        rpc = GrpcServer(intake, settings.host, settings.grpc_port, settings.max_connections)
        control = HttpServer(control_app(self._control), control_socket, limits)
        self._metrics.connections.labels("http").set_function(lambda: data.connections)
        self._metrics.connections.labels("control").set_function(lambda: control.connections)
        beat: asyncio.Task[None] | None = None
        grace_s: float = CLOSE_GRACE_S
        try:
            # The ports answer before any model is loaded: health is known from the first moment, readiness comes later.
            await control.start()
            await data.start()
            await rpc.start()
            prepared = await self._unless_stopped(
                prepare(settings, self._pool, self._cores, self._status, self._metrics)
            )
            if prepared is not None:
                engine, heartbeat = self._assemble(prepared)
                beat = loop.create_task(heartbeat.run())
                self._status.phase = "ready"
                await rpc.set_ready(True)
                names = ", ".join(model.info.name for model in prepared)
                profiles = ", ".join(model.profile_name for model in prepared)
                self._announce(
                    f"sponge: serving {names} at http://{settings.host}:{data.port} "
                    f"and grpc://{settings.host}:{rpc.port} "
                    f"(control at http://{settings.host}:{control.port}), {self._cores.in_force:g} cores, "
                    f"{len(self._pool.lanes)} lanes, profile {profiles}"
                )
                await self._stop.wait()
                grace_s = await self._drain(engine, data, rpc)
        finally:
            if beat is not None:
                beat.cancel()
            await asyncio.gather(rpc.stop(min(grace_s, CLOSE_GRACE_S)), data.stop(grace_s))
            await control.stop(min(grace_s, CLOSE_GRACE_S))
            await self._pool.close()
            self._cores.close()

    def _intake(self) -> Intake:
        settings = self._settings
        memory = BodyMemory(settings.max_queue_bytes)
        self._metrics.held_bytes.set_function(lambda: memory.held)
        return Intake(
            self._plane,
            self._uploads,
            self._metrics,
            memory,
            max_body_bytes=settings.max_body_bytes,
            max_json_bytes=settings.max_json_bytes,
            clock=self._clock,
            wall_clock=time.time,
            on_upload=self._on_upload,
        )

    def _on_upload(self) -> None:
        if self._planner is not None:
            self._planner.waiting()

    def _assemble(self, prepared: Sequence[Prepared]) -> tuple[Engine, Heartbeat]:
        settings, metrics, clock = self._settings, self._metrics, self._clock
        max_batch = max(model.info.max_batch for model in prepared)
        books = Books(metrics)
        models = [
            ServedModel(index, found.info, SloPolicy(given.slo_s, settings.slo_classes), books.of(given.name))
            for index, (given, found) in enumerate(zip(settings.models, prepared, strict=True))
        ]
        scheduler = Scheduler(
            [model.profile for model in prepared],
            self._cores.in_force,
            max_batch,
            settings.max_cores,
            clock(),
            POLICIES[settings.dispatch].make(),
        )
        planner = Planner(
            scheduler,
            self._uploads,
            metrics,
            sizes_milli=settings.candidates_milli,
            max_batch=max_batch,
            resize_s=settings.resize_s,
            lanes=lambda: len(self._pool.lanes),
            clock=clock,
            request_soon=lambda delay_s: heartbeat.request_soon(delay_s),
        )
        engine = Engine(
            self._pool,
            scheduler,
            models,
            books,
            clock=clock,
            observer=planner,
            witnesses=self._witnesses,
            max_rows=settings.max_queue_rows,
        )
        board = StateBoard(
            models=models,
            status=self._status,
            engine=engine,
            pool=self._pool,
            planner=planner,
            cores=self._cores,
            uploads=self._uploads,
            clock=clock,
        )
        heartbeat = Heartbeat(
            self._cores, planner, board, metrics, clock, used_s=time.process_time, charge=engine.set_overhead
        )
        self._control.board = board
        self._control.applier = Applier(
            board=board,
            engine=engine,
            cores=self._cores,
            planner=planner,
            pool=self._pool,
            metrics=metrics,
            max_batch=max_batch,
            max_lanes=min(model.max_lanes for model in prepared),
            clock=clock,
        )
        self._control.refresh = lambda: self._refresh(scheduler, models)
        self._planner = planner
        self._cores.listen(engine.set_cores)
        self._plane.attach(models, engine)
        return engine, heartbeat

    def _refresh(self, scheduler: Scheduler, models: Sequence[ServedModel]) -> None:
        """Gauges that are read off when somebody looks."""
        metrics, cores = self._metrics, self._cores
        quota = cores.quota_milli
        metrics.quota.set(cores.in_force if quota is None else quota / 1000)
        metrics.thread_budget.set(scheduler.budget)
        metrics.threads_running.set(scheduler.threads_running)
        metrics.lanes_running.set(scheduler.batches_running)
        waiting = scheduler.queue.deadlines
        for model in models:
            metrics.queue_length.labels(model.name).set(len(waiting[model.index]) if model.index < len(waiting) else 0)
        metrics.batch_cap.set(scheduler.batch_cap)
        metrics.profile_drifted.set(scheduler.drifted)
        metrics.uploads.set(len(self._uploads))
        metrics.set_throttled(cores.throttled_s)

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

    async def _drain(self, engine: Engine, data: HttpServer, rpc: GrpcServer) -> float:
        """Answers what was accepted; returns how long the last answers may take to be sent.

        Readiness ends at once. For `drain_delay_s` requests are still taken, because their senders have yet to learn
        that they should go elsewhere; for `drain_s` after that, those taken are still answered.
        """
        settings, status = self._settings, self._status
        status.phase = "leaving"
        if self._control.board is not None:
            self._control.board.publish(news=True)
        data.leave()
        await rpc.set_ready(False)
        event(log, "drain.begin", requests=engine.jobs, uploads=len(self._uploads), delay_s=settings.drain_delay_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), settings.drain_delay_s)
        status.phase = "draining"
        end = self._clock() + settings.drain_s
        # Polled, for it is once in a life and counts in two places.
        while (engine.jobs or len(self._uploads)) and self._clock() < end and not self._hurry.is_set():  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_S)
        event(log, "drain.end", unanswered=engine.jobs, uploads=len(self._uploads), hurried=self._hurry.is_set())
        engine.give_up()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), LAST_REFUSALS_S)
        return HURRIED_GRACE_S if self._hurry.is_set() else max(CLOSE_GRACE_S, end - self._clock())

    def _on_signal(self, number: int) -> None:
        """The first signal begins an orderly end, the second one cuts it short."""
        if self._stop.is_set():
            event(log, "drain.hurried", logging.WARNING, signal=signal.Signals(number).name)
            self._hurry.set()
        self._stop.set()

    def _limits(self) -> HttpLimits:
        settings = self._settings
        make_room(settings.max_connections)
        return HttpLimits(
            header_timeout_s=settings.header_timeout_s,
            keep_alive_s=settings.keep_alive_s,
            write_timeout_s=settings.write_timeout_s,
            max_connections=settings.max_connections,
            backlog=settings.backlog,
        )
