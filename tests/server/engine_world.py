"""An engine on fake lanes in virtual time, with the statistics that tests read."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from virtual_time import FakePool, VirtualLoop
from wide_bounds import WIDE

from sponge_core.deadlines import Due, SloPolicy
from sponge_core.latency import LatencyModel
from sponge_core.queue_room import QueueRoom
from sponge_server.engine.engine import Engine
from sponge_server.engine.jobs import Job
from sponge_server.engine.scheduler import Scheduler
from sponge_server.model_handle import ModelHandle, ServedVariant
from sponge_server.model_state import FIRST_VERSION
from sponge_server.observability.metrics import Metrics
from sponge_server.observability.observers import RequestObserver
from sponge_server.observability.request_stats import RequestStats
from sponge_server.workers.interface import Item, ModelInfo, Tensor

MODEL = LatencyModel(gamma=0.04, delta=0.005, epsilon=0.0, eta=0.005)
"""l(1, 1) = 50 ms, l(1, 2) = 30 ms, l(2, 1) = 95 ms."""


@dataclass
class Watcher(RequestObserver):
    """Records what the projector is told."""

    arrivals: list[tuple[float, float, int, int]] = field(default_factory=list)
    waits: int = 0

    def request_arrived(self, job: Job) -> None:
        self.arrivals.append((job.arrival, job.due.deadline - job.arrival, len(job.ids), job.model.index))

    def requests_pending(self) -> None:
        self.waits += 1


class World:
    def __init__(
        self,
        loop: VirtualLoop,
        lanes: int = 2,
        cores: float = 2.0,
        max_cores: float | None = None,
        batch_cap: int = 8,
        observers: Sequence[RequestObserver] = (),
        max_rows: int = 1000,
        shares: Mapping[str, float] | None = None,
        profiles: Sequence[LatencyModel] = (MODEL,),
        variants: Sequence[ServedVariant] = (),
    ) -> None:
        """`variants`: of the only model, whose accuracy is 0.76; their indices follow it."""
        self.loop = loop
        self.pool = FakePool(lanes, *profiles, *(variant.profile for variant in variants))
        self.scheduler = Scheduler(
            profiles,
            cores,
            batch_cap,
            max_cores or cores,
            loop.time(),
            room=QueueRoom(max_rows, shares or {}),
            variants=variants,
        )
        self.metrics = Metrics()
        self.watcher = Watcher()
        infos = self.pool.models[: len(profiles)]
        self.stats = RequestStats(
            self.metrics, [info.name for info in infos], [f"{infos[0].name}/{variant.name}" for variant in variants]
        )
        self.models = handles(infos, variants)
        self.engine = Engine(
            self.pool,
            self.scheduler,
            self.models,
            [self.stats, self.watcher, *observers],
            clock=loop.time,
        )

    def submit(
        self,
        slo_s: float = 1.0,
        rows: int = 1,
        sent_ago_s: float = 0.0,
        items: list[Item] | None = None,
        model: int = 0,
        slo_class: str = "default",
        floor: float = math.inf,
    ) -> Job:
        due = Due(self.loop.time() - sent_ago_s, slo_s, slo_class, "absent", 9, floor=floor)
        return self.engine.submit(self.models[model], items or [item(float(n)) for n in range(rows)], due)

    async def outcome(self, job: Job) -> Any:
        """The answer, or the error that the client gets."""
        return (await asyncio.gather(job.future, return_exceptions=True))[0]

    async def at(self, when: float, what: Coroutine[Any, Any, Any]) -> Any:
        await asyncio.sleep(when - self.loop.time())
        return await what

    def ran(self) -> list[tuple[float, int, int]]:
        """(start, rows, threads) of every batch, in order of start."""
        return [run[:3] for run in self._runs()]

    def ran_models(self) -> list[tuple[int, int]]:
        """(model, rows) of every batch, in order of start."""
        return [(model, rows) for _, rows, _, model in self._runs()]

    def _runs(self) -> list[tuple[float, int, int, int]]:
        return sorted(run for lane in self.pool.lanes for run in lane.ran)

    def counted(self) -> dict[str, int]:
        return {outcome: count for outcome, count in self.stats.outcomes.items() if count}


def handles(infos: Sequence[ModelInfo], variants: Sequence[ServedVariant] = ()) -> list[ModelHandle]:
    return [
        ModelHandle(index, info, SloPolicy(1.0), WIDE, FIRST_VERSION, index, variants, 0.76)
        for index, info in enumerate(infos)
    ]


def item(value: float = 1.0) -> Item:
    return Item((Tensor("x", "FP32", (1, 1), struct.pack("<f", value)),))


def bad_item() -> Item:
    return Item(images=(b"no image",))
