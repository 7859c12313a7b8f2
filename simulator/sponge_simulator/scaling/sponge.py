"""Sponge: the projection over moldable EDF, as the server and the operator run it together."""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.control_api import FrontierPoint
from sponge_core.cpu_sharing import thread_budget
from sponge_core.dispatch.decision import Limits
from sponge_core.edf_queue import Request
from sponge_core.forecast import Forecaster
from sponge_core.planning.decider import Recommendation, SizeDecider
from sponge_core.planning.frontier import project_frontier
from sponge_core.planning.projection import ProjectionInput
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["Sponge"]

HORIZON_S = 1.0


class Sponge:
    """One replica with a frontier every 100 ms: grows at once, shrinks to the largest need of the look-back."""

    interval_s = 0.1
    dispatch = "moldable-edf"

    counts_misses = False
    """Whether to count the misses of smaller sizes, which only services that share a node need."""

    def __init__(self, service: Service, look_back_s: float = 1.0) -> None:
        self._service = service
        self._sizes = [round(1000 * cores) for cores in service.sizes]
        self._limits = Limits(service.max_batch, thread_budget(service.max_cores), service.max_cores)
        self._forecaster = Forecaster()
        self._decider = SizeDecider(look_back_s)
        self._busy_at = 0.0

    def arrived(self, now: float, request: Request) -> None:
        self._forecaster.observe(now, request.deadline - now, size=request.size)

    def plan(self, state: Observation) -> Size:
        if parked := self._parked(state):
            return parked
        given = ProjectionInput(
            state.now,
            state.queue.deadlines,
            state.running,
            self._forecaster.forecast(state.now, HORIZON_S),
            state.size.cores,
            self._service.resize_s,
            slos=state.queue.slos,
            sizes=state.queue.sizes,
        )
        frontier = project_frontier(given, self._sizes, [self._service.model], self._limits, counted=self.counts_misses)
        plan = self._decider.decide(state.now, round(1000 * state.size.cores), frontier.points)
        return self._settled(given, frontier.points, plan)

    def _parked(self, state: Observation) -> Size | None:
        """The parked size if the service has been idle for long enough; else None."""
        service = self._service
        if state.queue or state.running:
            self._busy_at = state.now
        if service.idle_cores is None or state.now - self._busy_at < service.idle_after_s:
            return None
        return Size(service.idle_cores, service.max_batch, until_request=True)

    def _settled(self, given: ProjectionInput, points: Sequence[FrontierPoint], plan: Recommendation) -> Size:  # noqa: ARG002
        """The size that follows from a plan; overridden for services on a shared node."""
        return Size(plan.cores_milli / 1000, plan.batch_cap)
