"""One run: a policy on one seed's schedule, as plain figures; and what its outcome depends on, as one fingerprint.

A case holds everything that a run needs, so any process can run it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.experiments.catalogue import Variant
from sponge_core.edf_queue import Request
from sponge_profiles.profile import load_profile
from sponge_simulator.comparison import CLAIRVOYANT, clairvoyant_summary, run_policy
from sponge_simulator.fleet import SimulationResult, TimelinePoint
from sponge_simulator.node import JOINTLY, Node, run_node
from sponge_simulator.scaling.registry import make_policy
from sponge_simulator.scenario import Scenario
from sponge_workload.files import load_arrivals, load_bandwidth, recordings_here

__all__ = ["Case", "run", "schedules"]

_profile = cache(load_profile)


@dataclass(frozen=True, slots=True)
class Case:
    """A run to be done. `trace`: also how many cores were billed in each second."""

    experiment: str
    variant: Variant
    policy: str
    seed: int
    trace: bool = False

    def parameters(self) -> dict[str, Any]:
        """Everything that the outcome depends on: equal parameters, equal outcome."""
        variant = self.variant
        return {
            "policy": self.policy,
            "seed": self.seed,
            "at": variant.at,
            "slower": variant.slower,
            "uplink_step_s": variant.uplink_step_s,
            "simulated_s": variant.simulated_s,
            "scenario": variant.scenario.model_dump(mode="json"),
            "recordings": recordings_here(os.environ),
            "trace": self.trace,
            "sources": _fingerprint(self),
        }


def schedules(variant: Variant, seed: int) -> list[list[Request]]:
    """What reaches each service, the same under every policy."""
    whole = variant.scenario
    if isinstance(whole, Scenario):
        return [_schedule(variant, whole, seed)]
    return [_schedule(variant, each, seed + 1000 * index) for index, each in enumerate(whole.services)]


def _schedule(variant: Variant, scenario: Scenario, seed: int) -> list[Request]:
    uplink = load_bandwidth(scenario.bandwidth, 1, os.environ)
    if uplink is not None:
        uplink = uplink.starting_at((seed - 1) * variant.uplink_step_s)
    # The whole schedule, also where only its beginning is run: a recording is thinned to its mean rate.
    sent_at = load_arrivals(scenario.arrivals, scenario.peak_rps, scenario.duration_s, seed, os.environ)
    until_s = variant.duration_s
    return scenario.requests([at for at in sent_at if at < until_s], uplink, seed)


def run(case: Case) -> dict[str, Any]:
    """Figures of one run; `p99_ms` is None where nothing was answered, as for the bound."""
    variant, requests = case.variant, schedules(case.variant, case.seed)
    whole = variant.scenario.model_copy(update={"duration_s": variant.duration_s})
    if case.policy == CLAIRVOYANT:
        return _bound(whole, requests)
    if isinstance(whole, Node):
        results = run_node(case.policy, whole, requests, case.seed)
        by_class = dict(zip((each.name for each in whole.services), results, strict=True))
        sent = {name: result.sent for name, result in by_class.items()}
        in_time = {name: result.in_time for name, result in by_class.items()}
    else:
        profile = _profile(whole.profile)
        results = [run_policy(case.policy, whole, profile, requests[0], case.seed, True, variant.slower).result]
        sent, in_time = results[0].sent_by_class, results[0].in_time_by_class
    latencies_s = [latency for result in results for latency in result.latencies_s]
    found = _figures(sum(result.mean_cores for result in results), sent, in_time) | {
        "shed": sum(result.shed for result in results),
        "used_cores": round(sum(result.used_core_seconds for result in results) / variant.duration_s, 4),
        "resizes": sum(result.resizes for result in results),
        "started": sum(result.started for result in results),
        "p99_ms": round(float(np.percentile(latencies_s, 99)) * 1000, 1) if latencies_s else None,
    }
    return found | {"cores_by_s": _by_second(results)} if case.trace else found


def _bound(whole: Scenario | Node, requests: Sequence[Sequence[Request]]) -> dict[str, Any]:
    """Of several services, all of theirs: that they share a node can only cost more."""
    services = (whole,) if isinstance(whole, Scenario) else whole.services
    timed = [each.model_copy(update={"duration_s": whole.duration_s}) for each in services]
    rows = [clairvoyant_summary(each, _profile(each.profile), [own]) for each, own in zip(timed, requests, strict=True)]
    if isinstance(whole, Scenario):
        sent = {each.name: sum(r.slo_class == each.name for r in requests[0]) for each in whole.classes}
    else:
        sent = {each.name: len(own) for each, own in zip(services, requests, strict=True)}
    return _figures(sum(row.mean_cores for row in rows), sent, sent) | {"p99_ms": None}


def _figures(cores: float, sent: Mapping[str, int], in_time: Mapping[str, int]) -> dict[str, Any]:
    missed = {name: count - in_time.get(name, 0) for name, count in sorted(sent.items())}
    return {
        "sent": sum(sent.values()),
        "missed": sum(missed.values()),
        "mean_cores": round(cores, 4),
        "sent_by_class": dict(sorted(sent.items())),
        "missed_by_class": missed,
    }


def _by_second(results: Sequence[SimulationResult]) -> list[float]:
    """Mean cores that were billed in each second, of all services together."""
    seconds = int(results[0].duration_s)
    billed = [0.0] * seconds
    for result in results:
        ends: Sequence[TimelinePoint] = [*result.timeline[1:], TimelinePoint(result.duration_s, 0.0, 0)]
        for moment, end in zip(result.timeline, ends, strict=True):
            at = moment.at_s
            while at < min(end.at_s, seconds):
                until = min(end.at_s, int(at) + 1.0)
                billed[int(at)] += (until - at) * moment.cores
                at = until
    return [round(cores, 3) for cores in billed]


# --- what an outcome depends on -----------------------------------------------------------------------------------

_ROOTS = (
    "bench.experiments.runs",
    "sponge_simulator.fleet",
    "sponge_simulator.node",
    "sponge_simulator.scenario",
    "sponge_workload.files",
)
_PARTS = ("sponge_core", "sponge_simulator", "sponge_profiles", "sponge_workload")
_NOT_FOLLOWED = (
    "sponge_simulator.scaling.registry",
    "sponge_simulator.scaling.shared_node",
    "sponge_simulator.comparison",
)
"""These know policies; a run depends on its own."""


def _fingerprint(case: Case) -> str:
    """Changes when the code or a profile that the outcome depends on does, and not when another policy's does."""
    whole = case.variant.scenario
    services = (whole,) if isinstance(whole, Scenario) else whole.services
    profiles = [_profile(each.profile) for each in services]
    policy: tuple[str, ...]
    if case.policy == CLAIRVOYANT:
        policy = ("sponge_simulator.clairvoyant",)
    elif case.policy == JOINTLY:
        policy = ("sponge_simulator.scaling.shared_node",)
    else:
        chosen = make_policy(case.policy, services[0].service(profiles[0].latency_model()))
        policy = (type(chosen.scaling).__module__, type(chosen.dispatch).__module__)
    text = _of_sources(policy) + "".join(profile.model_dump_json() for profile in profiles)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _of_sources(policy: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in sorted(_reached((*_ROOTS, *policy))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _reached(modules: Iterable[str]) -> set[Path]:
    """The sources of these modules and of all of the project's that they import."""
    found: dict[str, Path] = {}
    left = list(modules)
    while left:
        module = left.pop()
        if module not in found:
            found[module] = _source(module)
            left += [name for name in _imports(found[module]) if _followed(name)]
    return set(found.values())


def _source(module: str) -> Path:
    """Beside its package, whatever of it is loaded: what runs may have been compiled."""
    package, *inner = module.split(".")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent.joinpath(*inner)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _followed(module: str) -> bool:
    return module.split(".")[0] in _PARTS and not module.startswith(_NOT_FOLLOWED)


def _imports(path: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
