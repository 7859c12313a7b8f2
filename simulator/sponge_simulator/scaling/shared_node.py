"""Ours for several services on one node: each plans for itself while all fit, and jointly once they do not.

The operator's decision for a node, without an operator. Every service keeps the node told of what it would take and,
once that is more than there is, of how much it would miss with every smaller size; the node answers with its part of
the joint plan (`planning/joint.py`). What another service last said may be a tick old. Knows nothing of who runs the
services.
"""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.control_api import FrontierPoint
from sponge_core.planning.decider import Plan
from sponge_core.planning.joint import Claim, plan_jointly, up_to
from sponge_core.planning.projection import ProjectionInput
from sponge_simulator.scaling.interface import Service, Size
from sponge_simulator.scaling.sponge import Sponge

__all__ = ["SharedNode"]

SOLVE_S = 10.0
"""The program is solved to its end: a result must not depend on how fast the machine is."""


class SharedNode:
    """The node that `members`, a policy for each of the services, decide about together."""

    def __init__(self, services: Sequence[Service], node_cores: float) -> None:
        self._capacity_milli = round(1000 * node_cores)
        self._wanted = [0] * len(services)
        self._claims: list[Claim | None] = [None] * len(services)
        self.members = [_Member(service, self, index) for index, service in enumerate(services)]

    def fits(self, index: int, wanted_milli: int) -> bool:
        """Takes note of what a service would have by itself; whether all have that."""
        self._wanted[index] = wanted_milli
        self._claims[index] = None
        return sum(self._wanted) <= self._capacity_milli

    def part(self, index: int, claim: Claim) -> FrontierPoint:
        """What a service gets of the joint plan. One that has not claimed yet counts with what it would have."""
        self._claims[index] = claim
        all_claims = [
            known or Claim([FrontierPoint(cores_milli=wanted, batch_cap=1, misses=0)], wanted)
            for known, wanted in zip(self._claims, self._wanted, strict=True)
        ]
        return plan_jointly(all_claims, self._capacity_milli, lambda: 0.0, SOLVE_S).points[index]


class _Member(Sponge):
    counts_misses = True

    def __init__(self, service: Service, node: SharedNode, index: int) -> None:
        super().__init__(service)
        self._node, self._index = node, index

    def _settled(self, given: ProjectionInput, points: Sequence[FrontierPoint], plan: Plan) -> Size:
        if self._node.fits(self._index, plan.cores_milli):
            return super()._settled(given, points, plan)
        claim = Claim(self._every_point(given, points, plan), round(1000 * given.cores))
        part = self._node.part(self._index, claim)
        return Size(part.cores_milli / 1000, part.batch_cap)

    def _every_point(self, given: ProjectionInput, points: Sequence[FrontierPoint], plan: Plan) -> list[FrontierPoint]:
        """What it would miss with every size up to what it would take, as the operator works it out."""
        alone = FrontierPoint(cores_milli=plan.cores_milli, batch_cap=plan.batch_cap, misses=0)
        requests = sum(map(len, given.queued)) + len(given.arrivals)
        sizes = [milli for milli in self._sizes if milli <= plan.cores_milli]
        return up_to(alone, points, sizes, requests)
