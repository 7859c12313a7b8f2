"""Sponge at the pace of a deployment: the server projects as often as its cores allow, and the operator long-polls it.

`sponge` decides on every frontier, ten times a second. In a pod, the server renews the frontier less often on a
fraction of a core, sooner when requests keep waiting, and includes the uploads in flight. The operator learns of it
once a second, or as soon as a larger size would save a request.
"""

from __future__ import annotations

from sponge_core.planning.frontier import Frontier, project_frontier
from sponge_core.planning.projection import ProjectionInput
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.sponge import HORIZON_S, Sponge

__all__ = ["SpongeDeployed"]

PROJECTED_EVERY_S, SHORTEST_GAP_S = 0.1, 0.02
"""Seconds between projections on a whole core, at rest and while requests wait: those of the server's projector."""

POLL_S = 1.0
"""The longest that a server holds back its state, as in `sponge_operator.settings`."""


class SpongeDeployed(Sponge):
    """One replica: decides as soon as the server projects a miss that a larger size avoids, else once a second."""

    interval_s = SHORTEST_GAP_S

    def __init__(self, service: Service, look_back_s: float = 1.0) -> None:
        super().__init__(service, look_back_s)
        self._frontier: Frontier | None = None
        self._projected_at = self._looked_at = -POLL_S
        self._decided = (0, 0)
        self._is_asked_for = False
        self._wanted = Size(service.max_cores, service.max_batch)

    def plan(self, state: Observation) -> Size:
        if parked := self._parked(state):
            self._wanted = parked
            return parked
        # A projection is requested when requests still wait after a dispatch decision.
        decided = (len(state.queue), len(state.running))
        self._is_asked_for |= len(state.queue) > 0 and decided != self._decided
        self._decided = decided
        gap_s = (SHORTEST_GAP_S if self._is_asked_for else PROJECTED_EVERY_S) / min(1.0, state.size.cores)
        woken = self._wanted.until_request
        fresh = self._frontier is None or woken or state.now - self._projected_at >= gap_s - 1e-3
        if fresh:
            self._frontier, self._projected_at, self._is_asked_for = self._project(state), state.now, False
        assert self._frontier is not None
        if (fresh and self._frontier.urgent) or woken or state.now - self._looked_at >= POLL_S - 1e-9:
            plan = self._decider.decide(state.now, round(1000 * state.size.cores), self._frontier.points)
            self._wanted, self._looked_at = Size(plan.cores_milli / 1000, plan.batch_cap), state.now
        return self._wanted

    def _project(self, state: Observation) -> Frontier:
        forecast = self._forecaster.forecast(state.now, HORIZON_S)
        given = ProjectionInput(
            state.now,
            state.queue.deadlines,
            state.running,
            sorted([*state.uploads, *forecast[len(state.uploads) :]]),
            state.size.cores,
            self._service.resize_s,
            self._service.overhead_cores,
            state.queue.slos,
            state.queue.sizes,
        )
        return project_frontier(given, self._sizes, [state.model or self._service.model], self._limits)
