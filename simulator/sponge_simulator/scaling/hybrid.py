"""Sponge on several replicas: in-place resizes at once, another replica only for a lasting need, one less only late.

The size follows the projection of all replicas together, ten times a second. The number of replicas follows the steady
need, which is the rate divided by what a core can serve, because the present queue is empty before a new replica
serves. While the need exceeds the largest sizes, the work left undone adds up (and decreases again otherwise). A
replica is requested once that sum equals the cost of a start, which is a cold start on the smallest size. So a short
surge starts no replica, and a larger excess starts one sooner. This is the break-even rule of the ski rental problem,
which pays at most twice the cost of knowing the end of the surge. A replica is removed when the others would have room
to spare for twice the time of a cold start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from sponge_core.cpu_sharing import thread_budget
from sponge_core.dispatch.decision import Limits
from sponge_core.edf_queue import Request
from sponge_core.forecast import Arrival, Forecaster
from sponge_core.latency import LatencyModel
from sponge_core.planning.decider import SizeDecider
from sponge_core.planning.frontier import project_frontier
from sponge_core.planning.projection import ProjectionInput
from sponge_simulator.scaling.arrival_history import ArrivalCounts
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.steady_state import configurations

__all__ = ["Hybrid"]

HORIZON_S = 1.0
FULL = 0.9
"""The largest sizes count as full from this fraction of them on."""

TO_SPARE = 0.7
"""A replica may be removed if the need is below this fraction of the others' largest sizes. It is clearly below `FULL`,
so that the replica does not come back."""

NEVER = 1e6
"""A factor on the time of a batch that rules out its number of threads."""


class Hybrid:
    """Replicas of equal size. They share a queue, so they are projected as one pod with all their cores."""

    interval_s = 0.1
    dispatch = "moldable-edf"

    def __init__(self, service: Service, look_back_s: float = 1.0) -> None:
        self._service = service
        self._forecaster = Forecaster()
        # Plain counts: the forecast follows a rise with a delay, and the sum of undone work needs no smoothing.
        self._last_second = ArrivalCounts(1)
        self._decider = SizeDecider(look_back_s)
        self._undone_core_s = 0.0
        self._too_many_since: float | None = None

    def arrived(self, now: float, request: Request) -> None:
        self._forecaster.observe(now, request.deadline - now, size=request.size)
        self._last_second.arrived(now)

    def plan(self, state: Observation) -> Size:
        arrivals = self._forecaster.forecast(state.now, HORIZON_S)
        replicas = self._replicas(state, self._cores_per_rate(state.now, arrivals))
        serving = max(1, min(state.ready, replicas))
        cores, batch_cap = self._size(state, arrivals, serving)
        return Size(cores, batch_cap, replicas)

    def _size(self, state: Observation, arrivals: Sequence[Arrival], serving: int) -> tuple[float, int]:
        """The cores of each of `serving` replicas, and the batch cap."""
        service = self._service
        most = serving * service.max_cores
        given = ProjectionInput(
            state.now,
            state.queue.deadlines,
            state.running,
            arrivals,
            serving * state.size.cores,
            service.resize_s,
            slos=state.queue.slos,
            sizes=state.queue.sizes,
        )
        totals = [round(1000 * serving * cores) for cores in service.sizes]
        limits = Limits(service.max_batch, thread_budget(most), most)
        models = [_within(service.model, thread_budget(service.max_cores), thread_budget(most))]
        frontier = project_frontier(given, totals, models, limits)
        plan = self._decider.decide(state.now, round(1000 * serving * state.size.cores), frontier.points)
        # A recent need may have been for another number of replicas.
        enough = (cores for cores, total in zip(service.sizes, totals, strict=True) if total >= plan.cores_milli)
        return next(enough, service.sizes[-1]), plan.batch_cap

    def _cores_per_rate(self, now: float, arrivals: Sequence[Arrival]) -> float:
        """Cores for a rate of one request per second, at the most efficient configuration.

        0 if no configuration is in time, because a larger number of replicas would not help.
        """
        service = self._service
        if not arrivals:
            return 0.0
        left_s = fmean(arrival.deadline - arrival.at for arrival in arrivals)
        rate = self._forecaster.rate(now)
        options = configurations(service.model, service.sizes, service.max_batch, rate, left_s)
        return min((1 / option.per_core for option in options), default=0.0)

    def _replicas(self, state: Observation, cores_per_rate: float) -> int:
        service, asked = self._service, state.size.replicas
        excess = self._last_second.mean(state.now) * cores_per_rate - FULL * asked * service.max_cores
        self._undone_core_s = max(0.0, self._undone_core_s + excess * self.interval_s)
        steady_cores = self._forecaster.rate(state.now) * cores_per_rate
        if self._undone_core_s > service.cold_start_s * service.min_cores:
            self._undone_core_s = 0.0
            wanted = math.ceil(steady_cores / (FULL * service.max_cores))
            return min(service.max_replicas, max(wanted, asked + 1))
        if asked == 1 or steady_cores > TO_SPARE * (asked - 1) * service.max_cores:
            self._too_many_since = None
            return asked
        self._too_many_since = state.now if self._too_many_since is None else self._too_many_since
        if state.now - self._too_many_since < 2 * service.cold_start_s:
            return asked
        self._too_many_since = None
        return asked - 1


def _within(model: LatencyModel, one_pod: int, all_pods: int) -> LatencyModel:
    """The model of several pods: a batch runs in one of them, on at most the threads of `one_pod`."""
    own = model.by_threads[:one_pod] + (1.0,) * (one_pod - len(model.by_threads))
    return replace(model, by_threads=own + (NEVER,) * (all_pods - one_pod)) if all_pods > one_pod else model
