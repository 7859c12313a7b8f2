"""Sponge on several replicas: in-place resizes at once, another replica only for a lasting need, one less only late.

The size follows the projection of all replicas together, ten times a second. The number of replicas is decided by the
core's `planning.replicas`, as in the cluster; here no node is full.
"""

from __future__ import annotations

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
from sponge_core.planning.replicas import ReplicaDecider, ReplicaLimits, ReplicaState, Trend
from sponge_core.planning.steady_state import cores_per_rate
from sponge_simulator.scaling.arrival_history import ArrivalCounts
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["HORIZON_S", "Hybrid", "missed_share"]

HORIZON_S = 1.0
MAY_MISS = 0.01
"""The share of requests that a service may miss: the default of `slo.target`."""

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
        self._replicas = ReplicaDecider()
        self._trend = Trend()
        self._expected, self._missed = 0, 0.0  # requests, and misses at the largest size, by the last plan
        self._limits = ReplicaLimits(
            1, service.max_replicas, service.min_cores, service.max_cores, service.cold_start_s
        )

    def arrived(self, now: float, request: Request) -> None:
        self._forecaster.observe(now, request.deadline - now, size=request.size)
        self._last_second.arrived(now)

    def plan(self, state: Observation) -> Size:
        arrivals = self._forecaster.forecast(state.now, HORIZON_S)
        replicas = self._number(state, self._cores_per_rate(state, arrivals))
        serving = max(1, min(state.ready, replicas))
        cores, batch_cap = self._size(state, arrivals, serving)
        return Size(cores, batch_cap, replicas)

    def _number(self, state: Observation, cores_per_rate: float) -> int:
        loads = (self._last_second.mean(state.now), self._forecaster.rate(state.now))
        now_cores, steady_cores = (rate * cores_per_rate + self._service.overhead_cores for rate in loads)
        missed_cores = now_cores * missed_share(self._missed, self._expected)
        return self._decided(state, state.now, self.interval_s, (now_cores, steady_cores), missed_cores)

    def _decided(
        self, state: Observation, now: float, elapsed_s: float, loads: tuple[float, float], missed_cores: float
    ) -> int:
        """The number of replicas by the core's rule, from the present and the steady load and what is missed of it."""
        now_cores, steady_cores = loads
        seen = ReplicaState(
            state.size.replicas,
            now_cores,
            steady_cores,
            self._trend.ahead(now, now_cores, self._limits.cold_start_s),
            missed_cores=missed_cores,
            starting=max(0, state.size.replicas - state.ready),
        )
        return self._replicas.decide(now, elapsed_s, seen, self._limits).replicas

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
            serving * service.overhead_cores,
            slos=state.queue.slos,
            sizes=state.queue.sizes,
        )
        totals = [round(1000 * serving * cores) for cores in service.sizes]
        limits = Limits(service.max_batch, thread_budget(most), most)
        models = [_within(state.model or service.model, thread_budget(service.max_cores), thread_budget(most))]
        frontier = project_frontier(given, totals, models, limits)
        self._missed, self._expected = frontier.points[-1].misses, len(state.queue) + len(arrivals)
        plan = self._decider.decide(state.now, round(1000 * serving * state.size.cores), frontier.points)
        # A recent need may have been for another number of replicas.
        enough = (cores for cores, total in zip(service.sizes, totals, strict=True) if total >= plan.cores_milli)
        return next(enough, service.sizes[-1]), plan.batch_cap

    def _cores_per_rate(self, state: Observation, arrivals: Sequence[Arrival]) -> float:
        """Cores for a rate of one request per second, at the most efficient configuration.

        0 if no configuration is in time, because a larger number of replicas would not help.
        """
        service = self._service
        if not arrivals:
            return 0.0
        left_s = fmean(arrival.deadline - arrival.at for arrival in arrivals)
        model, rate = state.model or service.model, self._forecaster.rate(state.now)
        return cores_per_rate(model, service.sizes, service.batches, rate, left_s)


def missed_share(missed: float, requests: float) -> float:
    """The share of requests that are missed; 0 where a service may miss so many."""
    return min(1.0, missed / requests) if missed > MAY_MISS * requests else 0.0


def _within(model: LatencyModel, one_pod: int, all_pods: int) -> LatencyModel:
    """The model of several pods: a batch runs in one of them, on at most the threads of `one_pod`."""
    own = model.by_threads[:one_pod] + (1.0,) * (one_pod - len(model.by_threads))
    return replace(model, by_threads=own + (NEVER,) * (all_pods - one_pod)) if all_pods > one_pod else model
