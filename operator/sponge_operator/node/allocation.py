"""What each of the pods that are driven on one node is to have, when they may want more than there is. Pure.

Those whose wishes fit together get them. Those whose wishes do not are planned jointly by the core's integer program.
Either way a pod grows only into what is free now: a shrink that makes room comes first, and the grow follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sponge_core.control_api import FrontierPoint, SizeRange, StateSnapshot
from sponge_core.planning.joint import Claim, JointPlan, plan_jointly, up_to
from sponge_operator.autoscale.recommender import Wish

__all__ = ["Grant", "Tenant", "fit", "grant", "points_of", "share"]

MOST_POINTS = 16
"""Sizes of one pod that the program chooses from, besides those that its server projected."""

HORIZON_S = 1.0
"""How far the servers forecast arrivals."""

TIME_LIMIT_S = 0.03
"""For one joint plan; past it the greedy rule decides. Nobody else is driven meanwhile."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One driven pod on a node, and what it would have if it were alone.

    Attributes:
        snapshot: what its server said, the frontier that led to the wish.
        current_milli: the size in force.
        weight: what one missed request of its service counts.
    """

    uid: str
    wish: Wish
    snapshot: StateSnapshot
    sizes: SizeRange
    current_milli: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a pod gets now.

    Attributes:
        wish: the size for now.
        lacks_milli: what it wished beyond that.
        refused: the joint plan gives the lacking cores to others.
        waits: more was planned for it than is free now, and comes when others have shrunk.
    """

    wish: Wish
    lacks_milli: int = 0
    refused: bool = False
    waits: bool = False


def points_of(wish: Wish, snapshot: StateSnapshot, sizes: SizeRange) -> list[FrontierPoint]:
    """What a pod could do with less than its wish, for every size or for some that are spread evenly."""
    alone = FrontierPoint(cores_milli=wish.cores_milli, batch_cap=wish.batch_cap, misses=0.0)
    if wish.reason == "parked":
        return [alone]
    projected = [point for point in snapshot.frontier if point.cores_milli >= sizes.min_milli]
    steps = (wish.cores_milli - sizes.min_milli) // sizes.step_milli
    stride = sizes.step_milli * max(1, -(-steps // MOST_POINTS))
    requests = snapshot.queue_length + HORIZON_S * snapshot.arrival_rate_rps
    return up_to(alone, projected, range(sizes.min_milli, wish.cores_milli + 1, stride), requests)


def fit(tenants: Iterable[Tenant], room_milli: int) -> bool:
    """Whether all can have their wishes, and there is nothing to plan."""
    return sum(tenant.wish.cores_milli for tenant in tenants) <= room_milli


def share(tenants: Sequence[Tenant], room_milli: int, clock: Callable[[], float]) -> JointPlan:
    """The joint plan of tenants whose wishes do not fit, a point for each."""
    claims = [
        Claim(points_of(tenant.wish, tenant.snapshot, tenant.sizes), tenant.current_milli, tenant.weight)
        for tenant in tenants
    ]
    return plan_jointly(claims, room_milli, clock, TIME_LIMIT_S)


def grant(tenant: Tenant, planned: FrontierPoint | None, room_milli: int, held_milli: Mapping[str, int]) -> Grant:
    """What `tenant` gets now.

    Args:
        planned: its point of the joint plan; None where it is to have its wish.
        room_milli: what the node has for all tenants.
        held_milli: what each tenant holds of that now, by uid.
    """
    wish, alone = tenant.wish, tenant.wish.cores_milli
    refused = planned is not None and planned.cores_milli < alone
    if planned is not None and refused:
        feasible = wish.feasible and planned.misses == 0
        wish = replace(
            wish,
            cores_milli=planned.cores_milli,
            batch_cap=planned.batch_cap,
            feasible=feasible,
            reason="shared",
        )
    free = room_milli - sum(milli for uid, milli in held_milli.items() if uid != tenant.uid)
    if wish.cores_milli <= max(free, tenant.current_milli):
        return Grant(wish, alone - wish.cores_milli, refused)
    sizes = tenant.sizes
    fits = sizes.min_milli + (free - sizes.min_milli) // sizes.step_milli * sizes.step_milli
    now = max(tenant.current_milli, fits)
    return Grant(replace(wish, cores_milli=now, feasible=False, reason="waits"), alone - now, refused, waits=True)
