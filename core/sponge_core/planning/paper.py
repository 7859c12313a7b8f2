"""The planner of the Sponge paper: an integer program over cores and batch size, solved with HiGHS through PuLP.

Source: "Sponge: Inference Serving with Dynamic SLOs Using In-Place Vertical Scaling" (EuroMLSys 2024): the program
`min c + w*b` under latency and throughput constraints, in the form that its experiments used. All requests of a second
wait at once, so a second takes `ceil(rate/b)` batches of whole milliseconds, and these plus the worst network delay
must end within 0.9 of the SLO.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import pulp

from sponge_core.latency import LatencyModel

__all__ = ["PaperPlan", "PaperPlanner"]

SLO_SHARE = 0.9
"""The fraction of the SLO that the published prototype plans with."""


@dataclass(frozen=True, slots=True)
class PaperPlan:
    """Cores and batch size. If `feasible` is false both are 0, and the running configuration stays."""

    cores: int
    batch: int
    feasible: bool
    predicted_ms: float  # of one batch


INFEASIBLE = PaperPlan(0, 0, False, 0.0)


class PaperPlanner:
    """Plans (cores, batch) for a given rate and worst network delay.

    Args:
        max_cores: the largest size, in whole cores; with 0 nothing is feasible.
        max_batch: the largest batch.
        slo_share: the fraction of the SLO to plan with; 1.0 uses all of it.
    """

    def __init__(self, model: LatencyModel, max_cores: int, max_batch: int, slo_share: float = SLO_SHARE) -> None:
        self._model = model
        self._max_cores = max_cores
        self._max_batch = max_batch
        self._slo_share = slo_share
        self._solve = lru_cache(maxsize=4096)(self._solve_program)

    def plan(self, rate: float, slo_s: float, network_s: float) -> PaperPlan:
        """The fewest cores, then the smallest batch, that serve a rate within the SLO.

        Args:
            rate: requests per second.
            slo_s: the SLO, end to end, in seconds.
            network_s: the worst network delay, in seconds.
        """
        # Round to a millionth of a millisecond: 0.9 * 1000 - 45.0 must not become 854.9999999.
        budget_ms = round(self._slo_share * slo_s * 1000 - network_s * 1000, 6)
        # Batches and milliseconds are whole, so these integers decide, and programs seen before are found again.
        return self._solve(math.ceil(rate), math.floor(budget_ms))

    def _solve_program(self, rate: int, budget_ms: int) -> PaperPlan:
        if self._max_cores < 1:
            return INFEASIBLE
        grid = [(c, b) for c in range(1, self._max_cores + 1) for b in range(1, self._max_batch + 1)]
        latency_ms = {(c, b): self._model.latency(b, c) * 1000 for c, b in grid}
        # floor(x + 1e-9): the conversion from seconds to milliseconds must not turn 95.0 into 94.
        second_ms = {(c, b): math.ceil(rate / b) * math.floor(latency_ms[c, b] + 1e-9) for c, b in grid}

        program = pulp.LpProblem("sponge", pulp.LpMinimize)
        chosen = program.add_variable_dicts("x", grid, cat=pulp.LpBinary)
        # Fewest cores first, then the smaller batch, whose weight stays below one core.
        program += pulp.lpSum(chosen[c, b] * (c + b / (self._max_batch + 1)) for c, b in grid)
        program += pulp.lpSum(chosen.values()) == 1
        program += pulp.lpSum(chosen[point] * second_ms[point] for point in grid) <= budget_ms
        program.solve(pulp.HiGHS(msg=False))
        if program.status != pulp.LpStatusOptimal:
            return INFEASIBLE
        cores, batch = max(grid, key=lambda point: chosen[point].value())
        return PaperPlan(cores, batch, True, latency_ms[cores, batch])
