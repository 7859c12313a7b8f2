"""Decides under overload which requests to shed for the benefit of others.

Under overload some requests are lost whatever the server does; the question is which. Earliest deadline first alone
gives the worst answer: it serves each request at the last moment, on many threads or in a tiny batch, and the cores
answer a third of what they could. So a request that has waited past its chance of a cheap batch is shed at once, if
other requests can use the threads well.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from sponge_core.cpu_sharing import CpuLoad, speed_of, stall_of, thread_budget
from sponge_core.dispatch.batch_sizing import BatchConfig, cheapest_batch
from sponge_core.dispatch.decision import Limits
from sponge_core.edf_queue import RATE_WINDOW_S
from sponge_core.latency import LatencyModel

__all__ = ["Demand", "LoadShedder"]

WASTE: Final = 1.05
"""A request is shed when it costs this many times what it would have cost on arrival, each time in a batch as full as
its deadline allows. The comparison uses the request's own SLO, so that no request is shed for being tight."""

LARGE_WASTE: Final = 1.15
"""From this factor on, a request is shed also for the benefit of requests with a much longer SLO."""

SATURATED: Final = 0.95
"""The server counts as overloaded when recent arrivals, at their cheapest, need this share of the cores, whatever
chance has added to them."""

FAR_LESS: Final = 0.5
"""A request belongs to a tighter class than another if its SLO is at most this fraction of the other's."""

SAMPLES: Final = 5


class Demand(NamedTuple):
    """The load that shedding is decided on.

    Attributes:
        slos: by model: the seconds that each waiting request had left on arrival, in the order of its deadlines.
        rates: by model: recent arrivals per second.
        sizes: in the order of `slos`; empty if no model has a `SizeCurve`.
    """

    slos: Sequence[Sequence[float]]
    rates: Sequence[float]
    sizes: Sequence[Sequence[float]] = ()


class LoadShedder:
    """Judges the requests of one decision; computes only what it is asked for.

    Args:
        demand: of the queue.
        models: by index, as in `demand`.
        limits: of the decision.
    """

    def __init__(self, demand: Demand, models: Sequence[LatencyModel], limits: Limits) -> None:
        cores = limits.max_cores
        self._demand = demand
        self._models = models
        self._caps = [min(limits.batch_cap, model.max_batch) for model in models]
        self._all_cores = cores * limits.servers
        self._idle = CpuLoad(0.0, cores, [])
        self._threads = thread_budget(cores)
        self._speed = speed_of(cores, self._threads)  # under overload every thread is busy
        self._beside = min(limits.lanes, self._threads) - 1
        self._saturated: bool | None = None

    def worth_shedding(
        self, now: float, model: int, deadlines: Sequence[float], index: int, best: BatchConfig | None
    ) -> bool:
        """Whether serving the request at `index` of its model's `deadlines` would cost more answers than it gives.

        Args:
            best: the cheapest batch that can still serve it; None if no batch can.
        """
        slos, own = self._demand.slos[model], self._of(model, index)
        fresh = self._on_arrival(model, own, slos[index])
        if fresh is None:
            return False
        waste = math.inf if best is None else _cost(own, best) / _cost(own, fresh)
        if waste <= WASTE or not self.saturated:
            return False
        # Someone must benefit: waiting requests that still have time for the batch that this one has missed. Requests
        # with a far longer SLO can wait, and count only if the waste is large.
        enough = (1.0 + self._models[model].error) * fresh.work_s / self._speed + stall_of(self._speed)
        missing = best.batch if best is not None else 1
        for other in range(max(index + 1, bisect_left(deadlines, now + enough)), len(deadlines)):
            if waste > LARGE_WASTE or slos[other] * FAR_LESS < slos[index]:
                missing -= 1
                if missing == 0:
                    return True
        return False

    def overtaken(self, now: float, model: int, deadlines: Sequence[float], first: int) -> list[int]:
        """Indices, from `first` on, of requests to shed because only their long wait put them before a tighter class.

        When not all requests can be served, those with a short SLO come first, as they do in EDF while no request waits
        for long. A request is shed if it has no more time left than a fresh request of the tightest waiting class, and
        had far more on arrival.
        """
        slos = self._demand.slos[model]
        # Keep a full batch waiting, so that no thread goes without work.
        most = len(deadlines) - first - self._caps[model]
        if most <= 0 or not self.saturated:
            return []
        tightest = min(slos[first:])
        found: list[int] = []
        for index in range(first, len(deadlines)):
            if deadlines[index] - now >= tightest or len(found) == most:
                break
            if slos[index] * FAR_LESS >= tightest:
                found.append(index)
        return found

    @property
    def saturated(self) -> bool:
        """Whether recent arrivals alone, each at its cheapest, fill the largest size of all servers of the queue.

        Less their standard deviation: at 28 requests/s a second has five more by chance, and a small server that then
        takes itself for overloaded sheds what it could have answered.
        """
        if self._saturated is None:
            needed = variance = 0.0
            for model, rate in enumerate(self._demand.rates):
                cost = self._mean_cost(model)
                needed += rate * cost
                variance += rate * cost * cost
            # Of an exponential average of independent arrivals.
            deviation = math.sqrt(variance / (2.0 * RATE_WINDOW_S))
            self._saturated = needed - deviation >= SATURATED * self._all_cores
        return self._saturated

    def _mean_cost(self, model: int) -> float:
        """Mean core-seconds of a request in a batch as full as its SLO allows, over a sample of the waiting ones."""
        slos = self._demand.slos[model]
        costs: list[float] = []
        for index in range(0, len(slos), max(1, len(slos) // SAMPLES)):
            own = self._of(model, index)
            fresh = self._on_arrival(model, own, slos[index])
            if fresh is not None:
                costs.append(_cost(own, fresh))
        if not costs:
            cap = self._caps[model]
            return self._models[model].latency(cap, 1) / cap
        return self._models[model].slowdown(self._beside) * sum(costs) / len(costs)

    def _of(self, model: int, index: int) -> LatencyModel:
        """The model of rows like the waiting one at `index`."""
        return self._models[model].at(self._demand.sizes[model][index]) if self._demand.sizes else self._models[model]

    def _on_arrival(self, model: int, own: LatencyModel, slo_s: float) -> BatchConfig | None:
        """The cheapest full batch of rows like this one within a whole SLO, with all other threads busy."""
        threads = self._threads
        return cheapest_batch(own, slo_s, self._caps[model], threads, self._idle, crowd=threads)


def _cost(own: LatencyModel, config: BatchConfig) -> float:
    """Core-seconds per request, without the slowdown by other lanes, which this batch cannot choose."""
    return config.threads * own.latency(config.batch, config.threads) / config.batch
