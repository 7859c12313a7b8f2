"""The dispatch of most servers: batches of a fixed size on a fixed number of threads, as soon as a lane is free.

First come, first served, or by deadline. `Plain` does not use the latency model, except to drop hopeless requests if
asked to. It is also the base of the policies that change only the size of a batch, its start, or what is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from sponge_core.cpu_sharing import thread_budget
from sponge_core.dispatch.decision import Decision, DispatchState, Launch, Shed
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.step import fastest_s
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel

__all__ = ["BySlack", "Plain", "largest_in_time"]


class Plain(Dispatcher):
    """Fixed batches on fixed threads.

    Args:
        threads: of each batch, at most the thread budget.
        by_deadline: earliest deadline first; else first come, first served.
        drop: `nothing`, `expired` requests, or also those that are `hopeless` on all cores.
    """

    def __init__(self, *, threads: int = 1, by_deadline: bool = False, drop: str = "nothing") -> None:
        self._threads = threads
        self._by_deadline = by_deadline
        self._drop = drop

    def decide(self, state: DispatchState) -> Decision:
        now, queue, running, cores, models, limits, _ = state
        sheds = self.sheds(state)
        gone = {shed.request.id for shed in sheds}
        order = (request for request in self._order(queue) if request.id not in gone)
        budget = thread_budget(cores)
        threads = min(self._threads, budget)
        slots = min((budget - sum(batch.threads for batch in running)) // threads, limits.lanes - len(running))
        launches: list[Launch] = []
        wake_at: float | None = None
        if slots > 0:
            # Look at no more requests than the free lanes can take of any model.
            waiting = _by_model(islice(order, slots * limits.batch_cap * len(models)))
            while slots > 0 and waiting:
                model = min(waiting, key=lambda m: self._rank(waiting[m][0]))
                requests = waiting[model]
                size = self.size(now, requests, models[model], min(limits.batch_cap, models[model].max_batch), threads)
                start = self.start(now, requests, size, models[model], threads)
                if start > now:
                    wake_at = start if wake_at is None else min(wake_at, start)
                    del waiting[model]
                    continue
                batch = tuple(requests[:size])
                work = models[model].latency(len(batch), threads) * models[model].slowdown(len(running) + len(launches))
                launches.append(Launch(batch, threads, work))
                slots -= 1
                waiting[model] = requests[size:]
                if not waiting[model]:
                    del waiting[model]
        return Decision(tuple(launches), tuple(sheds), wake_at)

    def size(self, now: float, waiting: Sequence[Request], model: LatencyModel, cap: int, threads: int) -> int:  # noqa: ARG002
        """The size of the next batch of `waiting`, >= 1; larger than their number means all of them."""
        return cap

    def start(self, now: float, waiting: Sequence[Request], size: int, model: LatencyModel, threads: int) -> float:  # noqa: ARG002
        """When the next batch, of up to `size` of `waiting`, should start, in seconds on the caller's clock."""
        return now

    def sheds(self, state: DispatchState) -> list[Shed]:
        """The requests to shed now."""
        if self._drop == "nothing":
            return []
        most = state.limits.max_cores
        needed = [fastest_s(model, most) if self._drop == "hopeless" else 0.0 for model in state.models]
        lost = []
        for request in state.queue:
            if request.deadline < state.now + needed[request.model]:
                hopeless = request.deadline - request.arrival < needed[request.model]
                lost.append(Shed(request, "hopeless" if hopeless else "expired"))
        return lost

    def _order(self, queue: EdfQueue) -> Iterable[Request]:
        return queue if self._by_deadline else queue.by_arrival()

    def _rank(self, request: Request) -> tuple[float, int]:
        return (request.deadline if self._by_deadline else 0.0, request.id)


class BySlack(Plain):
    """Earliest deadline first; a batch is as large as its head's slack allows."""

    def __init__(self, *, drop: str = "nothing") -> None:
        super().__init__(by_deadline=True, drop=drop)

    def size(self, now: float, waiting: Sequence[Request], model: LatencyModel, cap: int, threads: int) -> int:
        return max(1, largest_in_time(waiting[0].deadline - now, model, cap, threads))


def largest_in_time(room_s: float, model: LatencyModel, cap: int, threads: int) -> int:
    """The largest batch that ends within `room_s` seconds, model error included; 0 if none does."""
    return model.largest_batch(room_s / (1.0 + model.error), threads, cap)


def _by_model(requests: Iterable[Request]) -> dict[int, list[Request]]:
    found: dict[int, list[Request]] = {}
    for request in requests:
        found.setdefault(request.model, []).append(request)
    return found
