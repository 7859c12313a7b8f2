"""Whether more arrives than can be answered, and which requests are then not worth their price.

Under overload some requests are lost whatever is done; the question is which. Earliest deadline first alone answers it
in the worst way: it serves every request at the last moment, on many threads or in a tiny batch, and the cores answer
a third of what they could. So a request that has waited away its cheap start is given up at once when others can use
the threads as they should be used. Pure; knows nothing of requests but their deadlines.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from sponge_core.cpu_sharing import speed_of, stall_of, thread_budget
from sponge_core.dispatch.batch_sizing import Choice, cheapest
from sponge_core.latency import LatencyModel

__all__ = ["Demand", "Overload"]

WASTE: Final = 1.05
"""A request is given up when it costs this many times what it would have cost on arrival, each in a batch as full as
its deadline allows. Measured by each request's own SLO, so that none is given up because it is tight."""

LARGE_WASTE: Final = 1.15
"""The same, from which on it is given up for those who came with far more time, too."""

SATURATED: Final = 0.95
"""Share of the cores that recent arrivals need, at their cheapest, from which on a waste is taken from others."""

FAR_LESS: Final = 0.5
"""Times a request's own SLO: one that had no more than this on arrival is of a tighter class."""

SAMPLES: Final = 5


class Demand(NamedTuple):
    """By model: what each waiting request had left on arrival, in the places of its deadlines, and arrivals per s."""

    slos: Sequence[Sequence[float]]
    rates: Sequence[float]


class Overload:
    """One decision's view of the demand; computed no further than it is asked."""

    def __init__(
        self, demand: Demand, models: Sequence[LatencyModel], batch_cap: int, lanes: int, max_cores: float
    ) -> None:
        self._demand = demand
        self._models = models
        self._caps = [min(batch_cap, model.max_batch) for model in models]
        self._cores = max_cores
        self._threads = thread_budget(max_cores)
        self._speed = speed_of(max_cores, self._threads)  # with every thread busy, as they are under overload
        self._beside = min(lanes, self._threads) - 1
        self._saturated: bool | None = None

    def gives_up(self, now: float, model: int, line: Sequence[float], index: int, choice: Choice | None) -> bool:
        """Whether the request at `index` of its model's `line` costs more answers than it is worth.

        Args:
            choice: the best that can be done for it; None when nothing can.
        """
        slos = self._demand.slos[model]
        fresh = self._fresh(model, slos[index])
        if fresh is None:
            return False
        dearer = math.inf if choice is None else self._cost(model, choice) / self._cost(model, fresh)
        if dearer <= WASTE or not self.saturated:
            return False
        # Somebody must gain: requests that wait and still have time for the batch that this one has missed. Those that
        # came with far more time can wait, and count only where the waste is large.
        enough = (1.0 + self._models[model].error) * fresh.work_s / self._speed + stall_of(self._speed)
        missing = choice.batch if choice is not None else 1
        for heir in range(max(index + 1, bisect_left(line, now + enough)), len(line)):
            if dearer > LARGE_WASTE or slos[heir] * FAR_LESS < slos[index]:
                missing -= 1
                if missing == 0:
                    return True
        return False

    def giving_way(self, now: float, model: int, line: Sequence[float], first: int) -> list[int]:
        """The requests of a `line`, from index `first` on, that have waited themselves ahead of a tighter class.

        When not all can be served, those with little time come first, as they do in EDF while nobody waits for long:
        one gives way that has no more time left than a fresh request of the tightest class that waits, and had far
        more.
        """
        slos = self._demand.slos[model]
        # Who gives way must be missed by nobody: a batch's worth stays.
        most = len(line) - first - self._caps[model]
        if most <= 0 or not self.saturated:
            return []
        tightest = min(slos[first:])
        found: list[int] = []
        for index in range(first, len(line)):
            if line[index] - now >= tightest or len(found) == most:
                break
            if slos[index] * FAR_LESS >= tightest:
                found.append(index)
        return found

    @property
    def saturated(self) -> bool:
        """Whether recent arrivals alone, each at its cheapest, fill the most cores that a plan may give."""
        if self._saturated is None:
            needed = sum(rate * self._unit(model) for model, rate in enumerate(self._demand.rates))
            self._saturated = needed >= SATURATED * self._cores
        return self._saturated

    def _unit(self, model: int) -> float:
        """Core-seconds that a request takes in a batch as full as its SLO allows: the mean of some that wait."""
        slos = self._demand.slos[model]
        step = max(1, len(slos) // SAMPLES)
        costs = [self._cost(model, fresh) for slo in slos[::step] if (fresh := self._fresh(model, slo))]
        if not costs:
            cap = self._caps[model]
            return self._models[model].latency(cap, 1) / cap
        return self._models[model].slowdown(self._beside) * sum(costs) / len(costs)

    def _fresh(self, model: int, slo_s: float) -> Choice | None:
        """The cheapest full batch under a whole SLO, while the other threads are busy, too."""
        cap, threads = self._caps[model], self._threads
        return cheapest(slo_s, cap, threads, 0, (), 0.0, self._cores, self._models[model], crowd=threads)

    def _cost(self, model: int, choice: Choice) -> float:
        """Core-seconds per request without the slow-down by others, which is no choice of this batch."""
        return choice.threads * self._models[model].latency(choice.batch, choice.threads) / choice.batch
