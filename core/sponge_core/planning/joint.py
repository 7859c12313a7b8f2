"""Shares one node among services that together ask for more cores than it has.

Each service brings its frontier (sizes with their expected misses); the plan takes one point of each. An integer
program, the multiple-choice knapsack: fewest weighted misses under the node's capacity, among those the fewest cores,
among those the fewest changes. Pure; knows nothing of pods, of Kubernetes or of how a frontier came about.
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
"""Weighted misses that differ by less are equal: the solver's arithmetic is not exact."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one service could do with how many cores.

    Attributes:
        points: its frontier, ascending in cores, not empty.
        current_milli: the size in force.
        weight: what one missed request of this service counts, > 0.
    """

    points: Sequence[FrontierPoint]
    current_milli: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class JointPlan:
    """One point for each claim, in their order.

    `how`: every claim got what it would take alone ("apart"); the program was solved to the end ("program"); the time
    limit passed and the greedy rule decided ("greedy"); or even the smallest sizes do not fit ("smallest").
    """

    points: tuple[FrontierPoint, ...]
    how: Literal["apart", "program", "greedy", "smallest"]

    @property
    def cores_milli(self) -> int:
        return sum(point.cores_milli for point in self.points)


def up_to(
    alone: FrontierPoint, points: Sequence[FrontierPoint], sizes_milli: Sequence[int], requests: float
) -> list[FrontierPoint]:
    """What a service could do with each size up to the one that it would take by itself.

    Args:
        alone: that size; whoever takes it reckons to miss nothing with it.
        points: as projected, ascending in cores.
        sizes_milli, requests: see `every_size`.
    """
    projected = [point for point in points if point.cores_milli <= alone.cores_milli]
    if not projected:
        return [alone]
    if projected[-1].cores_milli < alone.cores_milli and projected[-1].misses > 0:
        projected.append(alone)
    return every_size(projected, sizes_milli, requests)


def every_size(points: Sequence[FrontierPoint], sizes_milli: Sequence[int], requests: float) -> list[FrontierPoint]:
    """A frontier that also says what the sizes would miss that nobody projected: the program needs them to choose from.

    A server projects only what it needs to find the smallest size without a miss. Between two such sizes the misses are
    taken to lie on a straight line, and below the smallest of them on the one that ends with every request missed on no
    core at all. Above the largest nothing is gained.

    Args:
        points: as projected, ascending in cores, not empty; kept as they are.
        sizes_milli: those to have a point each.
        requests: how many the projection looked at.
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
    """The best point of each frontier that together fit into `capacity_milli` of a node.

    Where more is claimed than there is, the smallest size of every service is still its own: a plan "smallest" may
    exceed the capacity, and says so by its name.

    Args:
        clock: seconds; read to keep the time limit.
        time_limit_s: for both solves of the program together. If it passes in the first the greedy rule decides; if in
            the second, the plan may use more cores than the best with as few misses.
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
    """The points that no cheaper one equals: strictly fewer misses for every further core, ascending in cores."""
    kept: list[FrontierPoint] = []
    for point in points:
        if not kept or point.misses < kept[-1].misses:
            kept.append(point)
    return kept


def _cores(points: Sequence[FrontierPoint]) -> int:
    return sum(point.cores_milli for point in points)


class _Program:
    """The knapsack as a program of two objectives, the second under the optimum of the first."""

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
        # Changes weigh less than one core's thousandth, whatever their number.
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
    """From the smallest sizes on, again and again the step that saves the most misses per core and still fits."""
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
