"""An engine on fake lanes in virtual time, with the books that tests look at."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from virtual_time import FakePool, VirtualLoop

from sponge_core.latency import LatencyModel
from sponge_server.deadlines import Due, SloPolicy
from sponge_server.engine.engine import Engine, Job
from sponge_server.engine.scheduler import Scheduler
from sponge_server.model_handle import ServedModel
from sponge_server.observability.metrics import Metrics
from sponge_server.observability.observers import Witness
from sponge_server.observability.request_stats import Books
from sponge_server.workers.interface import Item, ModelInfo, Tensor

MODEL = LatencyModel(gamma=0.04, delta=0.005, epsilon=0.0, eta=0.005)
"""l(1, 1) = 50 ms, l(1, 2) = 30 ms, l(2, 1) = 95 ms."""


@dataclass
class Watcher:
    """Counts what the planner would be told."""

    arrivals: list[tuple[float, float, int, int]] = field(default_factory=list)
    waits: int = 0

    def arrived(self, now: float, remaining_slo_s: float, rows: int, model: int) -> None:
        self.arrivals.append((now, remaining_slo_s, rows, model))

    def waiting(self) -> None:
        self.waits += 1


class World:
    def __init__(
        self,
        loop: VirtualLoop,
        lanes: int = 2,
        cores: float = 2.0,
        max_cores: float | None = None,
        batch_cap: int = 8,
        witnesses: Sequence[Witness] = (),
        max_rows: int = 1000,
        profiles: Sequence[LatencyModel] = (MODEL,),
    ) -> None:
        self.loop = loop
        self.pool = FakePool(lanes, *profiles)
        self.scheduler = Scheduler(profiles, cores, batch_cap, max_cores or cores, loop.time())
        self.metrics = Metrics()
        self.watcher = Watcher()
        books = Books(self.metrics)
        self.models = served(self.pool.models, books)
        self.engine = Engine(
            self.pool,
            self.scheduler,
            self.models,
            books,
            clock=loop.time,
            observer=self.watcher,
            witnesses=witnesses,
            max_rows=max_rows,
        )

    def submit(
        self,
        slo_s: float = 1.0,
        rows: int = 1,
        sent_ago_s: float = 0.0,
        items: list[Item] | None = None,
        model: int = 0,
    ) -> Job:
        due = Due(self.loop.time() - sent_ago_s, slo_s, "default", "absent", 7)
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
        return {outcome: count for outcome, count in self.engine.books.outcomes.items() if count}


def served(infos: Sequence[ModelInfo], books: Books) -> list[ServedModel]:
    return [ServedModel(index, info, SloPolicy(1.0), books.of(info.name)) for index, info in enumerate(infos)]


def item(value: float = 1.0) -> Item:
    return Item((Tensor("x", "FP32", (1, 1), struct.pack("<f", value)),))


def bad_item() -> Item:
    return Item(images=(b"no image",))
