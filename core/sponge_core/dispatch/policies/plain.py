"""What most servers do: batches of a fixed size on a fixed number of threads, as soon as a lane is free.

First come, first served, or by deadline; nothing is looked at that a latency model would tell, except, if asked, that a
request is past hope. Also the base of the policies that change only the size of a batch or when it starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from sponge_core.cpu_sharing import Running, thread_budget
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.moldable_edf import Decision, Launch, Limits, Shed, fastest_s
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel

__all__ = ["BySlack", "Plain", "allowed"]


class Plain(Dispatcher):
    """Fixed batches, fixed threads.

    Args:
        threads: of every batch; never more than the budget.
        by_deadline: earliest deadline first, else first come, first served.
        drop: nothing, what has `expired`, or already what is `hopeless` on all cores.
    """

    def __init__(self, *, threads: int = 1, by_deadline: bool = False, drop: str = "nothing") -> None:
        self._threads = threads
        self._by_deadline = by_deadline
        self._drop = drop

    def decide(
        self,
        now: float,
        queue: EdfQueue,
        running: Sequence[Running],
        cores: float,
        models: Sequence[LatencyModel],
        limits: Limits,
    ) -> Decision:
        sheds = self.sheds(now, queue, running, cores, models, limits)
        gone = {shed.request.id for shed in sheds}
        order = (request for request in self._order(queue) if request.id not in gone)
        budget = thread_budget(cores)
        threads = min(self._threads, budget)
        slots = min((budget - sum(batch.threads for batch in running)) // threads, limits.lanes - len(running))
        launches: list[Launch] = []
        wake_at: float | None = None
        if slots > 0:
            # No more than the free lanes can take of any model is looked at.
            waiting = _by_model(islice(order, slots * limits.batch_cap * len(models)))
            while slots > 0 and waiting:
                model = min(waiting, key=lambda m: self._rank(waiting[m][0]))
                line = waiting[model]
                size = self.size(now, line, models[model], min(limits.batch_cap, models[model].max_batch), threads)
                start = self.start(now, line, size, models[model], threads)
                if start > now:
                    wake_at = start if wake_at is None else min(wake_at, start)
                    del waiting[model]
                    continue
                batch = tuple(line[:size])
                work = models[model].latency(len(batch), threads) * models[model].slowdown(len(running) + len(launches))
                launches.append(Launch(batch, threads, work))
                slots -= 1
                waiting[model] = line[size:]
                if not waiting[model]:
                    del waiting[model]
        return Decision(tuple(launches), tuple(sheds), wake_at)

    def size(self, now: float, line: Sequence[Request], model: LatencyModel, cap: int, threads: int) -> int:  # noqa: ARG002
        """How many of `line`, at least one, make the next batch; more than there are: as many as there are."""
        return cap

    def start(self, now: float, line: Sequence[Request], size: int, model: LatencyModel, threads: int) -> float:  # noqa: ARG002
        """When the next batch of up to `size` of `line` should start."""
        return now

    def sheds(
        self,
        now: float,
        queue: EdfQueue,
        running: Sequence[Running],  # noqa: ARG002
        cores: float,  # noqa: ARG002
        models: Sequence[LatencyModel],
        limits: Limits,
    ) -> list[Shed]:
        """What to give up now."""
        if self._drop == "nothing":
            return []
        needed = [fastest_s(model, limits.max_cores) if self._drop == "hopeless" else 0.0 for model in models]
        lost = []
        for request in queue:
            if request.deadline < now + needed[request.model]:
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

    def size(self, now: float, line: Sequence[Request], model: LatencyModel, cap: int, threads: int) -> int:
        return max(1, allowed(line[0].deadline - now, model, cap, threads))


def allowed(room_s: float, model: LatencyModel, cap: int, threads: int) -> int:
    """The largest batch that ends within `room_s`, its error allowed for; 0: none does."""
    return model.largest_batch(room_s / (1.0 + model.error), threads, cap)


def _by_model(requests: Iterable[Request]) -> dict[int, list[Request]]:
    lines: dict[int, list[Request]] = {}
    for request in requests:
        lines.setdefault(request.model, []).append(request)
    return lines
