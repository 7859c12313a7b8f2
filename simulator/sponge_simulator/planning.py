"""Asks one planner for one decision: cores and batch size for a steady load. What `sponge plan` calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sponge_core.errors import SpongeError
from sponge_core.latency import LatencyModel
from sponge_core.planning.paper import PaperPlanner
from sponge_core.planning.steady import plan_steady

__all__ = ["PLANNERS", "Load", "SteadyPlan"]


@dataclass(frozen=True, slots=True)
class Load:
    """A steady load, and the sizes to choose from.

    Attributes:
        rate: requests per second.
        slo_ms: end to end.
        network_ms: the network's share of the SLO; must be less than the SLO.
        max_cores: whole cores, from 1.
        max_batch: largest batch.

    Raises:
        SpongeError: the network leaves no time.
    """

    rate: float
    slo_ms: float
    network_ms: float
    max_cores: int
    max_batch: int

    def __post_init__(self) -> None:
        if self.network_ms >= self.slo_ms:
            raise SpongeError(
                f"the network takes {self.network_ms:g} ms of an SLO of {self.slo_ms:g} ms: nothing is left; "
                "lower --network-ms"
            )


@dataclass(frozen=True, slots=True)
class SteadyPlan:
    """The size that a planner chose; zeros if no size is feasible. `predicted_ms` is the time of one batch."""

    cores: int
    batch: int
    feasible: bool
    predicted_ms: float | None


_INFEASIBLE = SteadyPlan(0, 0, False, None)


def _paper(model: LatencyModel, load: Load) -> SteadyPlan:
    plan = PaperPlanner(model, load.max_cores, load.max_batch).plan(
        load.rate, load.slo_ms / 1000, load.network_ms / 1000
    )
    return SteadyPlan(plan.cores, plan.batch, True, round(plan.predicted_ms, 3)) if plan.feasible else _INFEASIBLE


def _projected(model: LatencyModel, load: Load) -> SteadyPlan:
    sizes_milli = [1000 * cores for cores in range(1, load.max_cores + 1)]
    found = plan_steady(load.rate, (load.slo_ms - load.network_ms) / 1000, sizes_milli, model, load.max_batch)
    if found is None:
        return _INFEASIBLE
    milli, projection = found
    return SteadyPlan(milli // 1000, projection.largest_batch, True, round(projection.longest_s * 1000, 3))


PLANNERS: Mapping[str, Callable[[LatencyModel, Load], SteadyPlan]] = {"projected": _projected, "paper": _paper}
"""By the name that `--planner` has."""
