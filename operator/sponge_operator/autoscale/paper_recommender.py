"""The paper's planner in the control loop: its integer program on what a server's state says.

It decides where `planner.policy` is `paper`, and for a server that sends its latency profile but no frontier.
`sponge plan --planner paper` decides the same for the same load.
"""

from __future__ import annotations

from dataclasses import dataclass

from sponge_core.control_api import LatencyCoefficients, SizeRange, StateSnapshot
from sponge_core.planning.decider import Recommendation
from sponge_core.planning.paper import PaperPlan, PaperPlanner

__all__ = ["PaperLoad", "PaperRecommender"]

INTERVAL_S = 1.0
"""Between two programs, as in the paper; solving one holds the other pods up."""


@dataclass(frozen=True, slots=True)
class PaperLoad:
    """What the paper's planner plans for.

    Attributes:
        rate: requests per second, or the requests that wait, if they are more: in the program all wait at once.
        network_s: the most that the network takes of the SLO: the SLO less what requests have left on arrival.
    """

    rate: float
    network_s: float

    @classmethod
    def of(cls, snapshot: StateSnapshot, slo_s: float) -> PaperLoad:
        least_s = snapshot.remaining_slo_s[0] if snapshot.remaining_slo_s else slo_s
        return cls(max(snapshot.arrival_rate_rps, snapshot.queue_length), max(0.0, slo_s - least_s))


class PaperRecommender:
    """Recommends sizes for one server; keeps the newest plan between two programs."""

    def __init__(self) -> None:
        self._planner: tuple[_Program, PaperPlanner] | None = None
        self._planned: tuple[float, SizeRange, PaperPlan] | None = None

    def recommend(
        self, now: float, current_milli: int, snapshot: StateSnapshot, sizes: SizeRange, slo_s: float, max_batch: int
    ) -> Recommendation | None:
        """The size for now; None if the server's latency profile is unknown.

        The program chooses whole cores up to the largest size, and the next allowed size that has them is taken. Where
        it is infeasible, size and batch cap stay, as in the paper.

        Args:
            now: seconds on the caller's clock.
            current_milli: the size in force.
            slo_s: the SLO, end to end.
            max_batch: the largest batch that the service allows.
        """
        if snapshot.profile is None:
            return None
        if self._planned is None or now - self._planned[0] >= INTERVAL_S or self._planned[1] != sizes:
            program = _Program(snapshot.profile, sizes.max_milli // 1000, min(max_batch, snapshot.profile.max_batch))
            load = PaperLoad.of(snapshot, slo_s)
            self._planned = now, sizes, self._planner_of(program).plan(load.rate, slo_s, load.network_s)
        plan = self._planned[2]
        if not plan.feasible:
            held = max(sizes.min_milli, min(sizes.max_milli, current_milli))
            return Recommendation(held, snapshot.batch_cap, feasible=False, reason="infeasible", planner="paper")
        milli = sizes.at_least(1000 * plan.cores)
        reason = "hold" if milli == current_milli else "grow" if milli > current_milli else "shrink"
        return Recommendation(milli, plan.batch, feasible=True, reason=reason, planner="paper")

    def _planner_of(self, program: _Program) -> PaperPlanner:
        """The planner of a program; the one before if nothing has changed, because it knows what it has solved."""
        if self._planner is None or self._planner[0] != program:
            planner = PaperPlanner(program.profile.model(), program.max_cores, program.max_batch)
            self._planner = program, planner
        return self._planner[1]


@dataclass(frozen=True, slots=True)
class _Program:
    profile: LatencyCoefficients
    max_cores: int
    max_batch: int
