"""Wiring: builds the parts that serve the loaded models, each after the parts that it depends on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sponge_core.dispatch.registry import POLICIES
from sponge_core.queue_room import QueueRoom
from sponge_server.clients import Clients
from sponge_server.control.control_app import Control
from sponge_server.control.control_loop import ControlLoop
from sponge_server.control.load_feed import LoadFeed
from sponge_server.control.news import News
from sponge_server.control.operator_watch import OperatorWatch
from sponge_server.control.projector import Projector
from sponge_server.control.reconfigure import Reconfigurer
from sponge_server.control.state_publisher import StatePublisher
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.engine.engine import Engine
from sponge_server.engine.scheduler import Scheduler
from sponge_server.fronts import FrontNumbers
from sponge_server.inference_service import InferenceService
from sponge_server.lane_watch import LaneWatch
from sponge_server.lifecycle import Lifecycle
from sponge_server.memory_account import Account
from sponge_server.memory_watch import MemoryWatch
from sponge_server.model_state import FIRST_VERSION
from sponge_server.observability.gauges import Gauges
from sponge_server.observability.metrics import Metrics
from sponge_server.observability.model_counts import ModelCounter
from sponge_server.observability.observers import RequestObserver
from sponge_server.observability.request_stats import RequestStats
from sponge_server.repository import Repository
from sponge_server.security.api_keys import ApiKeys
from sponge_server.serving import Serving, handle_of
from sponge_server.settings import ServerSettings
from sponge_server.startup.memory_plan import account_limit
from sponge_server.startup.profile_board import ProfileBoard
from sponge_server.startup.startup import Prepared
from sponge_server.startup.variants import useful
from sponge_server.uploads import Uploads
from sponge_server.workers.interface import LanePool, ModelSpec
from sponge_server.workers.versioned_pool import VersionedPool

__all__ = ["Parts", "build"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What serves the loaded models."""

    engine: Engine
    service: InferenceService
    control: Control
    control_loop: ControlLoop
    news: News
    uploads: Uploads
    repository: Repository
    load: LoadFeed


def build(
    settings: ServerSettings,
    prepared: Sequence[Prepared],
    boards: Sequence[ProfileBoard],
    pool: VersionedPool,
    another: Callable[[ModelSpec], LanePool],
    quota: CpuQuota,
    lifecycle: Lifecycle,
    metrics: Metrics,
    observers: Sequence[RequestObserver],
    clock: Callable[[], float],
    on_ready: Callable[[bool], None],
    keys: ApiKeys | None = None,
) -> Parts:
    """Builds everything behind the ports.

    Args:
        prepared, boards: of the models and variants, in the order of `settings.loaded`.
        another: makes the pool for another version of a model.
        observers: told about every request and batch, besides the server's own observers.
        clock: monotonic seconds.
        on_ready: called when readiness changes because the lanes were lost, or are back.
        keys: of the clients; None: there are none.
    """
    max_batch = max(model.info.max_batch for model in prepared)
    account = Account(account_limit(settings.max_queue_bytes))
    count = len(settings.models)
    variants = useful(prepared[0].profile, settings.variants, [found.profile for found in prepared[count:]], count)
    models = [
        handle_of(settings, given, found, account, index, FIRST_VERSION, index, variants)
        for index, (given, found) in enumerate(zip(settings.models, prepared[:count], strict=True))
    ]
    uploads, news, operator = Uploads(), News(), OperatorWatch(clock)
    metrics.held_bytes_limit.set(account.limit)
    metrics.held_bytes.set_function(lambda: account.held)
    stats = RequestStats(
        metrics, lifecycle.models, [f"{settings.models[0].name}/{variant.name}" for variant in variants]
    )
    counter = ModelCounter(len(models), time.time)
    scheduler = Scheduler(
        [model.profile for model in prepared[:count]],
        quota.in_force,
        max_batch,
        settings.max_cores,
        clock(),
        POLICIES[settings.dispatch].make(),
        QueueRoom(settings.max_queue_rows, settings.queue_share),
        variants,
    )
    projector = Projector(
        scheduler,
        uploads,
        pool,
        news,
        metrics,
        sizes_milli=settings.candidates_milli,
        max_batch=max_batch,
        resize_s=settings.resize_s,
        clock=clock,
    )
    fronts = FrontNumbers()
    load = LoadFeed(
        scheduler=scheduler,
        models=models,
        uploads=uploads,
        pool=pool,
        lifecycle=lifecycle,
        fronts=fronts,
        clock=clock,
    )
    engine = Engine(pool, scheduler, models, [stats, counter, projector, load, *observers], clock=clock)
    quota.add_listener(engine.set_cores)
    quota.add_listener(lambda _: projector.resized())
    quota.add_listener(lambda _: load.changed())
    clients = Clients(settings.client_header, settings.quota, keys)
    service = InferenceService(
        models,
        clients,
        engine,
        lifecycle,
        uploads,
        account,
        metrics,
        counter.models,
        fronts,
        clock=clock,
        wall_clock=time.time,
    )
    memory = MemoryWatch(prepared[0].fitted, pool, metrics)
    publisher = StatePublisher(
        lifecycle=lifecycle,
        engine=engine,
        stats=stats,
        pool=pool,
        projector=projector,
        news=news,
        operator=operator,
        quota=quota,
        uploads=uploads,
        memory=memory,
        clock=clock,
    )
    reconfigurer = Reconfigurer(
        publisher=publisher,
        operator=operator,
        engine=engine,
        quota=quota,
        projector=projector,
        pool=pool,
        metrics=metrics,
        memory=memory,
        max_batch=max_batch,
        max_lanes=min(model.max_lanes for model in prepared),
        clock=clock,
    )
    gauges = Gauges(metrics, scheduler, pool, lifecycle.models, quota, uploads)
    control = Control(publisher, reconfigurer, gauges, operator, load)
    metrics.without_operator.set_function(lambda: operator.gone_s)
    watch = LaneWatch(pool, lifecycle, on_ready)
    control_loop = ControlLoop(
        quota, engine, projector, reconfigurer, metrics, watch, memory, clock=clock, cpu_clock=time.process_time
    )
    repository = Repository(
        settings=settings,
        handles=models,
        prepared=prepared,
        boards=boards,
        pool=pool,
        another=another,
        quota=quota,
        lifecycle=lifecycle,
        serving=Serving(service, engine, memory, projector, reconfigurer),
        metrics=metrics,
    )
    return Parts(engine, service, control, control_loop, news, uploads, repository, load)
