"""Shares one node among services that together ask for more cores than it has.

Each service has a frontier (sizes with their projected misses), and a plan takes one point of each. The plan is a
multiple-choice knapsack, solved as an integer program: the fewest weighted misses within the node's capacity, then the
fewest cores, then the fewest changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import pulp

from sponge_core.control_api import FrontierPoint

__all__ = ["Claim", "JointPlan", "every_size", "plan_jointly", "up_to"]

SAME_MISSES = 1e-6
"""Weighted misses that differ by less count as equal, because the solver's arithmetic is not exact."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The demand of one service.

    Attributes:
        points: its frontier, ascending in cores, not empty.
        current_milli: the size in force, in millicores.
        weight: the cost of one missed request of this service, > 0.
    """

    points: Sequence[FrontierPoint]
    current_milli: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class JointPlan:
    """One point for each claim, in the order of the claims.

    `how` says how the plan was found. "apart": every claim got what it would take alone. "program": the program was
    solved. "greedy": the time limit passed, and the greedy rule decided. "smallest": not even the smallest sizes fit.
    """

    points: tuple[FrontierPoint, ...]
    how: Literal["apart", "program", "greedy", "smallest"]

    @property
    def cores_milli(self) -> int:
        """The cores of all points together, in millicores."""
        return sum(point.cores_milli for point in self.points)


def up_to(
    alone: FrontierPoint, points: Sequence[FrontierPoint], sizes_milli: Sequence[int], requests: float
) -> list[FrontierPoint]:
    """The frontier of a service up to the size that it would take by itself.

    Args:
        alone: that size; the service expects no miss with it.
        points: the projected frontier, ascending in cores.
        sizes_milli, requests: see `every_size`.
    """
    projected = [point for point in points if point.cores_milli <= alone.cores_milli]
    if not projected:
        return [alone]
    if projected[-1].cores_milli < alone.cores_milli and projected[-1].misses > 0:
        projected.append(alone)
    return every_size(projected, sizes_milli, requests)


def every_size(points: Sequence[FrontierPoint], sizes_milli: Sequence[int], requests: float) -> list[FrontierPoint]:
    """Completes a frontier with an estimate for the sizes that were not projected, so that the program can choose them.

    A server projects only the sizes it needs to find the smallest one without a miss. Between two of them the misses
    are interpolated linearly; below the smallest, on the line to all requests missed with no cores. A size above the
    largest saves nothing and gets no point.

    Args:
        points: the projected frontier, ascending in cores, not empty; kept as it is.
        sizes_milli: the sizes that need a point, in millicores.
        requests: the number of requests in the projection.
    """
    known = {point.cores_milli: point for point in points}
    nothing = points[0].model_copy(update={"misses": max(requests, points[0].misses)})
    corners = [(0, nothing), *known.items()]
    for milli in sizes_milli:
        if milli in known or milli >= points[-1].cores_milli:
            continue
        (low, below), (high, above) = next(pair for pair in pairwise(corners) if pair[0][0] < milli < pair[1][0])
        share = (milli - low) / (high - low)
        misses = below.misses + share * (above.misses - below.misses)
        known[milli] = FrontierPoint(cores_milli=milli, batch_cap=above.batch_cap, misses=misses)
    return [known[milli] for milli in sorted(known)]


def plan_jointly(
    claims: Sequence[Claim], capacity_milli: int, clock: Callable[[], float], time_limit_s: float = 0.05
) -> JointPlan:
    """Chooses one point of each frontier so that together they fit into a node and miss the fewest requests.

    Every service keeps at least its smallest size, so a plan "smallest" may exceed the capacity.

    Args:
        capacity_milli: the node's capacity for these services, in millicores.
        clock: returns seconds; read to keep the time limit.
        time_limit_s: for both solves of the program together. If it passes in the first solve, the greedy rule
            decides; if in the second, the plan may use more cores than necessary for as few misses.
    """
    choices = [_worth_having(claim.points) for claim in claims]
    alone = tuple(points[-1] for points in choices)
    if _cores(alone) <= capacity_milli:
        return JointPlan(alone, "apart")
    smallest = tuple(points[0] for points in choices)
    if _cores(smallest) > capacity_milli:
        return JointPlan(smallest, "smallest")
    until = clock() + time_limit_s
    program = _Program(claims, choices, capacity_milli)
    if not program.minimise_misses(until - clock()):
        return JointPlan(_greedy(claims, choices, capacity_milli), "greedy")
    fewest_misses = program.chosen()
    return JointPlan(program.chosen() if program.minimise_cores(until - clock()) else fewest_misses, "program")


def _worth_having(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """The points that miss strictly fewer requests than every smaller one, ascending in cores."""
    kept: list[FrontierPoint] = []
    for point in points:
        if not kept or point.misses < kept[-1].misses:
            kept.append(point)
    return kept


def _cores(points: Sequence[FrontierPoint]) -> int:
    return sum(point.cores_milli for point in points)


class _Program:
    """The knapsack as an integer program with two objectives, the second within the optimum of the first."""

    def __init__(
        self, claims: Sequence[Claim], choices: Sequence[Sequence[FrontierPoint]], capacity_milli: int
    ) -> None:
        self._choices = choices
        self._program = program = pulp.LpProblem("joint", pulp.LpMinimize)
        self._taken = taken = [
            [program.add_variable(f"x_{i}_{j}", cat=pulp.LpBinary) for j in range(len(points))]
            for i, points in enumerate(choices)
        ]
        flat = [
            (claim, point, variable)
            for claim, points, variables in zip(claims, choices, taken, strict=True)
            for point, variable in zip(points, variables, strict=True)
        ]
        for variables in taken:
            program += pulp.lpSum(variables) == 1
        program += pulp.lpSum(point.cores_milli * variable for _, point, variable in flat) <= capacity_milli
        self._misses = pulp.LpAffineExpression(
            [(variable, claim.weight * point.misses) for claim, point, variable in flat]
        )
        # All changes together weigh less than one millicore.
        self._cost = pulp.LpAffineExpression(
            [
                (variable, point.cores_milli * (len(claims) + 1) + (point.cores_milli != claim.current_milli))
                for claim, point, variable in flat
            ]
        )

    def minimise_misses(self, time_limit_s: float) -> bool:
        self._program.setObjective(self._misses)
        return self._solve(time_limit_s)

    def minimise_cores(self, time_limit_s: float) -> bool:
        fewest = pulp.value(self._misses)
        self._program += self._misses <= fewest + SAME_MISSES
        self._program.setObjective(self._cost)
        return self._solve(time_limit_s)

    def chosen(self) -> tuple[FrontierPoint, ...]:
        return tuple(
            max(zip(points, variables, strict=True), key=lambda pair: float(pair[1].value() or 0.0))[0]
            for points, variables in zip(self._choices, self._taken, strict=True)
        )

    def _solve(self, time_limit_s: float) -> bool:
        if time_limit_s <= 0:
            return False
        self._program.solve(pulp.HiGHS(msg=False, timeLimit=time_limit_s, gapRel=0.0))
        return bool(self._program.status == pulp.LpStatusOptimal and self._program.sol_status == pulp.LpSolutionOptimal)


def _greedy(
    claims: Sequence[Claim], choices: Sequence[Sequence[FrontierPoint]], capacity_milli: int
) -> tuple[FrontierPoint, ...]:
    """Starts from the smallest sizes and repeatedly takes the step that saves the most misses per core and fits."""
    at = [0] * len(claims)
    room = capacity_milli - _cores([points[0] for points in choices])
    while True:
        best: tuple[float, int, int] | None = None
        for index, (claim, points) in enumerate(zip(claims, choices, strict=True)):
            here = points[at[index]]
            for further in range(at[index] + 1, len(points)):
                cores = points[further].cores_milli - here.cores_milli
                if cores > room:
                    break
                saved = claim.weight * (here.misses - points[further].misses) / cores
                if best is None or saved > best[0]:
                    best = (saved, index, further)
        if best is None:
            return tuple(points[index] for points, index in zip(choices, at, strict=True))
        _, index, further = best
        room -= choices[index][further].cores_milli - choices[index][at[index]].cores_milli
        at[index] = further
