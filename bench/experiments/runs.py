"""One run: a policy on one seed's schedule, as plain figures; and what its outcome depends on, as one fingerprint.

A case is complete in itself, so that any process can run it. Knows nothing of catalogues, files of results or pictures.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.experiments.catalogue import Variant
from sponge_client.traces import load_arrivals, load_bandwidth, recordings_here
from sponge_core.queueing import Request
from sponge_core.scaling.registry import make_policy
from sponge_profiles.profile import load_profile
from sponge_simulator.comparing import CLAIRVOYANT, bound, run_policy
from sponge_simulator.fleet import Moment, Result

__all__ = ["Case", "run", "schedule"]


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


def schedule(variant: Variant, seed: int) -> list[Request]:
    """What reaches the service, the same for every policy."""
    scenario = variant.scenario
    uplink = load_bandwidth(scenario.bandwidth, 1, os.environ)
    if uplink is not None:
        uplink = uplink.starting_at((seed - 1) * variant.uplink_step_s)
    # The whole schedule, also where only its beginning is run: a recording is thinned to its mean rate.
    sent_at = load_arrivals(scenario.arrivals, scenario.rate_rps, scenario.duration_s, seed, os.environ)
    until_s = variant.simulated_s or scenario.duration_s
    return scenario.requests([at for at in sent_at if at < until_s], uplink, seed)


def run(case: Case) -> dict[str, Any]:
    """Figures of one run; `p99_ms` is None where nothing was answered, as for the bound."""
    variant = case.variant
    scenario = variant.scenario
    if variant.simulated_s is not None:
        scenario = scenario.model_copy(update={"duration_s": variant.simulated_s})
    profile, requests = load_profile(scenario.profile), schedule(variant, case.seed)
    if case.policy == CLAIRVOYANT:
        row = bound(scenario, profile, [requests])
        sent = {each.name: sum(r.slo_class == each.name for r in requests) for each in scenario.classes}
        return _figures(len(requests), len(requests), 0, row.mean_cores, sent, sent) | {"p99_ms": None}
    result = run_policy(case.policy, scenario, profile, requests, case.seed, True, variant.slower).result
    found = _figures(
        result.sent, result.in_time, result.shed, result.mean_cores, result.sent_by_class, result.in_time_by_class
    )
    found |= {
        "used_cores": round(result.used_core_seconds / result.duration_s, 4),
        "resizes": result.resizes,
        "started": result.started,
        "p99_ms": round(float(np.percentile(result.latencies_s, 99)) * 1000, 1) if result.latencies_s else None,
    }
    return found | {"cores_by_s": _by_second(result)} if case.trace else found


def _figures(
    sent: int, in_time: int, shed: int, cores: float, sent_by_class: dict[str, int], in_time_by_class: dict[str, int]
) -> dict[str, Any]:
    missed = {name: count - in_time_by_class.get(name, 0) for name, count in sent_by_class.items()}
    return {
        "sent": sent,
        "missed": sent - in_time,
        "shed": shed,
        "mean_cores": round(cores, 4),
        "sent_by_class": dict(sorted(sent_by_class.items())),
        "missed_by_class": dict(sorted(missed.items())),
    }


def _by_second(result: Result) -> list[float]:
    """Mean cores that were billed in each second."""
    seconds = int(result.duration_s)
    billed = [0.0] * seconds
    ends: Sequence[Moment] = [*result.timeline[1:], Moment(result.duration_s, 0.0, 0)]
    for moment, end in zip(result.timeline, ends, strict=True):
        at = moment.at_s
        while at < min(end.at_s, seconds):
            until = min(end.at_s, int(at) + 1.0)
            billed[int(at)] += (until - at) * moment.cores
            at = until
    return [round(cores, 3) for cores in billed]


# --- what an outcome depends on -----------------------------------------------------------------------------------

_ROOTS = ("bench.experiments.runs", "sponge_simulator.fleet", "sponge_simulator.scenario", "sponge_client.traces")
_PARTS = ("sponge_core", "sponge_simulator", "sponge_profiles", "sponge_client")
_NOT_FOLLOWED = ("sponge_core.scaling.registry", "sponge_simulator.comparing", "bench")
"""These know every policy; a run depends on its own."""


def _fingerprint(case: Case) -> str:
    """Changes when the code or the profile that the outcome depends on does, and not when another policy's does."""
    profile = load_profile(case.variant.scenario.profile)
    if case.policy == CLAIRVOYANT:
        policy: tuple[str, ...] = ("sponge_core.scaling.clairvoyant",)
    else:
        chosen = make_policy(case.policy, case.variant.scenario.service(profile.latency_model()))
        policy = (type(chosen.scaling).__module__, type(chosen.dispatch).__module__)
    return hashlib.sha256((_of_sources(policy) + profile.model_dump_json()).encode()).hexdigest()[:16]


@cache
def _of_sources(policy: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in sorted(_reached((*_ROOTS, *policy))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _reached(modules: Iterable[str]) -> set[Path]:
    """The files of these modules and of all of the project's that they import."""
    found: dict[str, Path] = {}
    left = list(modules)
    while left:
        module = left.pop()
        if module in found:
            continue
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            continue  # a name in a module, not a module
        found[module] = Path(spec.origin)
        left += [name for name in _imports(found[module]) if _followed(name)]
    return set(found.values())


def _followed(module: str) -> bool:
    return module.split(".")[0] in _PARTS and not module.startswith(_NOT_FOLLOWED)


def _imports(path: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
