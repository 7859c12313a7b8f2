"""What each driven pod on a node gets when together they may need more than the node has. Pure.

If all recommendations fit, every pod gets its own. Otherwise the core's integer program plans them jointly. In both
cases a pod grows only into CPU that is free now: another pod shrinks first, and the grow follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sponge_core.control_api import FrontierPoint, SizeRange, StateSnapshot
from sponge_core.planning.decider import Recommendation
from sponge_core.planning.joint import Claim, JointPlan, plan_jointly, up_to
from sponge_operator.autoscale.look import Allocation

__all__ = ["Tenant", "allocate", "fit", "plan", "points_of"]

MOST_POINTS = 16
"""Sizes of one pod that the program chooses from, besides those that its server projected."""

HORIZON_S = 1.0
"""How far ahead the servers forecast arrivals."""

TIME_LIMIT_S = 0.03
"""For one joint plan, because no other pod is driven meanwhile; after it the greedy rule decides."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One driven pod on a node.

    Attributes:
        recommendation: the size that it would get alone.
        snapshot: the server's state, with the frontier behind the recommendation.
        current_milli: the size in force.
        weight: the cost of one missed request of its service.
    """

    uid: str
    recommendation: Recommendation
    snapshot: StateSnapshot
    sizes: SizeRange
    current_milli: int
    weight: float = 1.0


def points_of(recommendation: Recommendation, snapshot: StateSnapshot, sizes: SizeRange) -> list[FrontierPoint]:
    """The frontier of a pod up to its recommendation: every size, or evenly spread ones if there are many."""
    alone = FrontierPoint(cores_milli=recommendation.cores_milli, batch_cap=recommendation.batch_cap, misses=0.0)
    if recommendation.reason == "parked":
        return [alone]
    projected = [point for point in snapshot.frontier if point.cores_milli >= sizes.min_milli]
    steps = (recommendation.cores_milli - sizes.min_milli) // sizes.step_milli
    stride = sizes.step_milli * max(1, -(-steps // MOST_POINTS))
    requests = snapshot.queue_length + HORIZON_S * snapshot.arrival_rate_rps
    return up_to(alone, projected, range(sizes.min_milli, recommendation.cores_milli + 1, stride), requests)


def fit(tenants: Iterable[Tenant], room_milli: int) -> bool:
    """Whether all recommendations fit together."""
    return sum(tenant.recommendation.cores_milli for tenant in tenants) <= room_milli


def plan(tenants: Sequence[Tenant], room_milli: int, clock: Callable[[], float]) -> JointPlan:
    """The joint plan of tenants whose recommendations do not fit; one point for each."""
    claims = [
        Claim(points_of(tenant.recommendation, tenant.snapshot, tenant.sizes), tenant.current_milli, tenant.weight)
        for tenant in tenants
    ]
    return plan_jointly(claims, room_milli, clock, TIME_LIMIT_S)


def allocate(
    tenant: Tenant, planned: FrontierPoint | None, room_milli: int, held_milli: Mapping[str, int]
) -> Allocation:
    """What `tenant` gets now.

    Args:
        planned: its point of the joint plan; None where every pod gets its recommendation.
        room_milli: what the node has for all tenants.
        held_milli: what each tenant holds of that now, by uid.
    """
    given, alone = tenant.recommendation, tenant.recommendation.cores_milli
    refused = planned is not None and planned.cores_milli < alone
    if planned is not None and refused:
        feasible = given.feasible and planned.misses == 0
        given = Recommendation(planned.cores_milli, planned.batch_cap, feasible, "shared")
    free = room_milli - sum(milli for uid, milli in held_milli.items() if uid != tenant.uid)
    if given.cores_milli <= max(free, tenant.current_milli):
        return Allocation(given, alone - given.cores_milli, refused)
    fits = tenant.sizes.at_most(free) if free >= tenant.sizes.min_milli else 0
    now = max(tenant.current_milli, fits)
    waiting = replace(given, cores_milli=now, feasible=False, reason="waits")
    return Allocation(waiting, alone - now, refused, waits=True)
