"""Runs a whole comparison: one scenario, several policies, several seeds. What `sponge simulate` calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sponge_core.dispatch.registry import POLICIES as DISPATCH_POLICIES
from sponge_core.errors import SpongeError
from sponge_profiles.profile import load_profile
from sponge_simulator.comparison import (
    CLAIRVOYANT,
    PolicySummary,
    check_policies,
    clairvoyant_summary,
    run_policy,
    summarize,
)
from sponge_simulator.scaling.registry import POLICIES
from sponge_simulator.scenario import load_scenario, scenario_names
from sponge_workload.files import load_arrivals, load_bandwidth

__all__ = ["Experiment", "ExperimentResult", "listing", "run_experiment"]


@dataclass(frozen=True, slots=True)
class Experiment:
    """What to compare.

    Attributes:
        scenario: name of a shipped scenario, or a file.
        policies: names as in `sponge simulate --policies`.
        seed: the first seed.
        seeds: number of seeds; each makes a schedule of its own, and the results are combined.
        exact: batches take as long as the model predicts; False: they err as the profile's cells did.
        changes: fields of the scenario to replace; None values leave the scenario's own.
    """

    scenario: str
    policies: Sequence[str]
    seed: int
    seeds: int
    exact: bool
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """One summary per policy; `trace` is the name of the uplink, None for no network."""

    scenario: str
    trace: str | None
    seed: int
    seeds: int
    title: str
    policies: Sequence[PolicySummary]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        head = {"scenario": self.scenario, "trace": self.trace, "seed": self.seed, "seeds": self.seeds}
        return head | {"policies": [asdict(summary) for summary in self.policies]}


def run_experiment(
    experiment: Experiment, environment: Mapping[str, str], on_progress: Callable[[str, int], None]
) -> ExperimentResult:
    """Runs every policy on the same schedules.

    Args:
        environment: where the folder of recorded traces is looked up.
        on_progress: called with the policy that ran last or runs now, and the schedules that it finished since.

    Raises:
        SpongeError: an unknown scenario, policy or trace, or no policy at all.
    """
    if not experiment.policies:
        raise SpongeError("--policies is empty: name at least one, as in --policies sponge,static-8")
    changes = {name: value for name, value in experiment.changes.items() if value is not None}
    scenario = load_scenario(experiment.scenario).model_copy(update=changes)
    profile = load_profile(scenario.profile)
    check_policies(experiment.policies, scenario, profile)
    uplink = load_bandwidth(scenario.bandwidth, 1, environment)
    schedules = {
        seed: scenario.requests(
            load_arrivals(scenario.arrivals, scenario.peak_rps, scenario.duration_s, seed, environment), uplink, seed
        )
        for seed in range(experiment.seed, experiment.seed + experiment.seeds)
    }
    summaries = []
    for name in experiment.policies:
        on_progress(name, 0)
        if name == CLAIRVOYANT:
            summaries.append(clairvoyant_summary(scenario, profile, list(schedules.values())))
            on_progress(name, len(schedules))
            continue
        runs = []
        for seed, requests in schedules.items():
            runs.append(run_policy(name, scenario, profile, requests, seed, experiment.exact))
            on_progress(name, 1)
        summaries.append(summarize(runs))
    network = uplink.name if uplink else "no network"
    length = f"{experiment.seeds} x {scenario.duration_s:g} s from seed {experiment.seed}"
    title = f"{scenario.name}: {scenario.arrivals} arrivals, {network}, {length}"
    trace = uplink.name if uplink else None
    return ExperimentResult(scenario.name, trace, experiment.seed, experiment.seeds, title, summaries)


def listing() -> str:
    """The scenarios, policies and dispatch rules there are, for people."""
    return "\n".join(
        [
            "scenarios:",
            *(f"  {name:<14} {load_scenario(name).about}" for name in scenario_names()),
            f"policies: {', '.join(POLICIES)}, static-C, clairvoyant",
            f"dispatch rules: {', '.join(DISPATCH_POLICIES)}",
        ]
    )
