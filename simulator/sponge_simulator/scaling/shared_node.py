"""Sponge for several services on one node: each plans for itself while all fit, and jointly once they do not.

This is the operator's decision for a node, without an operator. Each service reports the size that it would take, and,
once the node is too small for all, its projected misses at every smaller size. The node returns the service's part of
the joint plan (`sponge_core.planning.joint`). A report of another service may be one interval old.
"""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.control_api import FrontierPoint
from sponge_core.planning.decider import Recommendation
from sponge_core.planning.joint import Claim, plan_jointly, up_to
from sponge_core.planning.projection import ProjectionInput
from sponge_simulator.scaling.interface import Service, Size
from sponge_simulator.scaling.sponge import Sponge

__all__ = ["SharedNode"]

SOLVE_S = 10.0
"""Long enough to solve the program to the end, so that a result does not depend on the speed of the machine."""


class SharedNode:
    """A node, and `members`, which are the policies of its services."""

    def __init__(self, services: Sequence[Service], node_cores: float) -> None:
        self._capacity_milli = round(1000 * node_cores)
        self._wanted = [0] * len(services)
        self._claims: list[Claim | None] = [None] * len(services)
        self.members = [_Member(service, self, index) for index, service in enumerate(services)]

    def fits(self, index: int, wanted_milli: int) -> bool:
        """Records the size that a service would take by itself; returns whether all services fit."""
        self._wanted[index] = wanted_milli
        self._claims[index] = None
        return sum(self._wanted) <= self._capacity_milli

    def part(self, index: int, claim: Claim) -> FrontierPoint:
        """The part of a service in the joint plan. A service without a claim counts with its wanted size."""
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

    def _settled(self, given: ProjectionInput, points: Sequence[FrontierPoint], plan: Recommendation) -> Size:
        if self._node.fits(self._index, plan.cores_milli):
            return super()._settled(given, points, plan)
        claim = Claim(self._every_point(given, points, plan), round(1000 * given.cores))
        part = self._node.part(self._index, claim)
        return Size(part.cores_milli / 1000, part.batch_cap)

    def _every_point(
        self, given: ProjectionInput, points: Sequence[FrontierPoint], plan: Recommendation
    ) -> list[FrontierPoint]:
        """The misses at every size up to the planned one, as the operator computes them."""
        alone = FrontierPoint(cores_milli=plan.cores_milli, batch_cap=plan.batch_cap, misses=0)
        requests = sum(map(len, given.queued)) + len(given.arrivals)
        sizes = [milli for milli in self._sizes if milli <= plan.cores_milli]
        return up_to(alone, points, sizes, requests)
