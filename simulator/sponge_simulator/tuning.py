"""Finds the cheapest configuration of a service that keeps its SLO, among measured profiles: what `sponge tune` calls.

Each profile is one runtime and number format of the model. Virtual time runs the production decisions over the same
arrivals for each range of cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

from sponge_core.errors import SpongeError
from sponge_profiles.profile import Profile
from sponge_simulator.comparison import run_policy, summarize
from sponge_simulator.scenario import Cores, Scenario, SloClass
from sponge_workload.files import load_arrivals

__all__ = ["Goal", "Tuned", "runtime_of", "tune"]

STEPS = (1.0, 0.5)
"""Sizes of `cpu.step`, in cores; the smallest is also `cpu.min`."""

_POLICY = "sponge"
_ENOUGH = 1.02
"""A smaller batch is as good if it needs at most this much more cores: it needs less memory."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What to keep, and for how long to try it.

    Attributes:
        slo_s: end to end, without a network.
        target: least share of requests in time, 0 to 1.
        max_cores: the most that the service may ever have.
        duration_s: of each schedule; one for each of `seeds`.
    """

    rate_rps: float
    slo_s: float
    target: float
    max_cores: int
    duration_s: float = 120.0
    seeds: int = 3


@dataclass(frozen=True, slots=True)
class Tuned:
    """The cheapest range of cores of one profile; `in_time` and `mean_cores` of the simulation.

    `max_cores`: None if the goal is not met with the most cores, with which the rest was simulated then.
    """

    profile: str
    source: str
    runtime: str
    dtype: str
    min_cores: float
    max_cores: float | None
    step: float
    batch: int
    in_time: float
    mean_cores: float


def tune(profiles: Sequence[Profile], goal: Goal, progress: Callable[[str], None]) -> list[Tuned]:
    """The best configuration of each profile, the cheapest first, those that miss the goal last.

    Args:
        progress: called with the name of the profile that is tried.

    Raises:
        SpongeError: there is no profile, or two have the same name.
    """
    names = [profile.name for profile in profiles]
    if not names:
        raise SpongeError("no profile to choose from: name files that `sponge profile` wrote")
    if len(set(names)) < len(names):
        raise SpongeError(f"two profiles are called {max(names, key=names.count)}: give one another --name")
    found = []
    for profile in profiles:
        progress(profile.name)
        found.append(_best(profile, goal))
    return sorted(found, key=lambda one: (one.max_cores is None, one.mean_cores))


def runtime_of(source: str) -> tuple[str, str]:
    """Runtime and number format of a model source, by its options."""
    parts = urlsplit(source)
    said = parse_qs(parts.query)
    own = {"onnx": "onnx", "openvino": "openvino"}.get(parts.scheme, "torch")
    return said.get("runtime", [own])[-1], said.get("dtype", ["fp32"])[-1]


def _best(profile: Profile, goal: Goal) -> Tuned:
    tried = [_least_cores(profile, goal, step, profile.max_batch) for step in STEPS]
    best = min(tried, key=lambda one: (one.max_cores is None, one.mean_cores))
    if best.max_cores is None:
        return best
    batch = profile.max_batch // 2
    while batch >= 1:
        smaller = _simulated(profile, goal, best.step, best.max_cores, batch)
        if smaller.in_time < goal.target or smaller.mean_cores > best.mean_cores * _ENOUGH:
            break
        best, batch = smaller, batch // 2
    return best


def _least_cores(profile: Profile, goal: Goal, step: float, batch: int) -> Tuned:
    """The smallest `cpu.max` that meets the goal; more cores never hurt, so a search by halves finds it."""
    sizes = [round(step * n, 3) for n in range(1, round(goal.max_cores / step) + 1)]
    low, high = 0, len(sizes) - 1
    best = _simulated(profile, goal, step, sizes[high], batch)
    if best.in_time < goal.target:
        return replace(best, max_cores=None)
    while low < high:
        middle = (low + high) // 2
        one = _simulated(profile, goal, step, sizes[middle], batch)
        if one.in_time >= goal.target:
            best, high = one, middle
        else:
            low = middle + 1
    return best


def _simulated(profile: Profile, goal: Goal, step: float, most: float, batch: int) -> Tuned:
    scenario = Scenario(
        name="tune",
        profile=profile.name,
        rate_rps=goal.rate_rps,
        duration_s=goal.duration_s,
        bandwidth="none",
        classes=(SloClass(slo_ms=goal.slo_s * 1000, payload_bytes=0),),
        cores=Cores(min=min(step, most), max=most, step=step),
        max_batch=batch,
        max_replicas=1,
    )
    runs = []
    for seed in range(1, goal.seeds + 1):
        sent_at = load_arrivals("poisson", goal.rate_rps, goal.duration_s, seed, {})
        requests = scenario.requests(sent_at, None, seed)
        runs.append(run_policy(_POLICY, scenario, profile, requests, seed, exact=False))
    result = summarize(runs)
    runtime, dtype = runtime_of(profile.model)
    return Tuned(
        profile.name,
        profile.model,
        runtime,
        dtype,
        scenario.cores.min,
        most,
        step,
        batch,
        round(1 - result.violations, 5),
        round(result.mean_cores, 3),
    )
