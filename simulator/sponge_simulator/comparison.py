"""Compares policies on the same arrivals, with the clairvoyant bound that none can beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from sponge_core.dispatch.decision import Launch
from sponge_core.dispatch.registry import MoldableEdf
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_profiles.profile import Profile
from sponge_simulator.clairvoyant import clairvoyant_core_seconds
from sponge_simulator.fleet import ClusterModel, SimulationResult, simulate
from sponge_simulator.scaling.registry import make_policy
from sponge_simulator.scenario import Scenario, service_ratios

__all__ = [
    "CLAIRVOYANT",
    "PolicyRun",
    "PolicySummary",
    "check_policies",
    "clairvoyant_summary",
    "run_policy",
    "summarize",
]

CLAIRVOYANT = "clairvoyant"


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """The result of one policy on the schedule of one seed."""

    policy: str
    result: SimulationResult


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """The results of one policy over all seeds; `violations` is a fraction of all requests sent."""

    policy: str
    sent: int
    in_time: int
    late: int
    shed: int
    violations: float
    mean_cores: float
    core_seconds: float
    resizes: int
    started: int
    p99_ms: float | None  # of answered requests; None if there are none
    violations_by_class: dict[str, float]


def check_policies(names: Sequence[str], scenario: Scenario, profile: Profile) -> None:
    """Raises UnknownPolicyError for the first unknown name; call it before the first run."""
    service = scenario.service(profile.latency_model())
    for name in names:
        if name != CLAIRVOYANT:
            make_policy(name, service)


def run_policy(
    name: str,
    scenario: Scenario,
    profile: Profile,
    requests: Sequence[Request],
    seed: int,
    exact: bool,
    slower: float = 1.0,
) -> PolicyRun:
    """Runs one policy on one schedule.

    Args:
        exact: batches take the predicted time; else they deviate from it with the profile's error.
        slower: factor on the time of every batch.

    Raises:
        UnknownPolicyError: there is no such policy.
    """
    service = scenario.service(profile.latency_model())
    chosen = make_policy(name, service)
    deviation: Callable[[], float] = (lambda: 1.0) if exact else service_ratios(profile.error, seed)

    def ratio() -> float:
        return slower * deviation()

    takes_s = None
    if service.model.sizes is not None and not isinstance(chosen.dispatch, MoldableEdf):
        known, service = service.model, replace(service, model=_blind(service.model, profile))
        chosen = make_policy(name, service)
        takes_s = _by_size(known, service.model, ratio)
    node_cores = scenario.node_cores or float("inf")
    cluster = ClusterModel(scenario.duration_s, scenario.resizes(seed), ratio, node_cores, takes_s=takes_s)
    return PolicyRun(name, simulate(requests, service, chosen.scaling, chosen.dispatch, cluster))


def _blind(model: LatencyModel, profile: Profile) -> LatencyModel:
    """What a dispatch rule knows that takes all requests for equal: a profile of the reference size alone."""
    assert profile.sizes is not None
    return model.at(profile.sizes.reference)


def _by_size(known: LatencyModel, blind: LatencyModel, ratio: Callable[[], float]) -> Callable[[Launch], float]:
    """A function for the true time of a batch by the sizes in it, where its predicted one is of the blind model."""

    def takes_s(launch: Launch) -> float:
        batch = len(launch.requests)
        real_s = known.of_batch([request.size for request in launch.requests]).latency(batch, launch.threads)
        return ratio() * launch.work_s * real_s / blind.latency(batch, launch.threads)

    return takes_s


def summarize(runs: Sequence[PolicyRun]) -> PolicySummary:
    """Combines the runs of one policy; at least one."""
    results = [run.result for run in runs]
    sent, in_time = sum(r.sent for r in results), sum(r.in_time for r in results)
    latencies = [latency for r in results for latency in r.latencies_s]
    classes = sorted({name for r in results for name in r.sent_by_class})
    return PolicySummary(
        runs[0].policy,
        sent,
        in_time,
        sum(r.late for r in results),
        sum(r.shed for r in results),
        1 - in_time / sent if sent else 0.0,
        fmean(r.mean_cores for r in results),
        sum(r.core_seconds for r in results),
        sum(r.resizes for r in results),
        sum(r.started for r in results),
        float(np.percentile(latencies, 99)) * 1000 if latencies else None,
        {
            name: 1
            - sum(r.in_time_by_class.get(name, 0) for r in results) / sum(r.sent_by_class.get(name, 0) for r in results)
            for name in classes
        },
    )


def clairvoyant_summary(scenario: Scenario, profile: Profile, schedules: Sequence[Sequence[Request]]) -> PolicySummary:
    """The clairvoyant bound, which by definition misses nothing, in the form of a policy's summary."""
    service = scenario.service(profile.latency_model())
    core_seconds = [
        clairvoyant_core_seconds(
            requests,
            service.model,
            max_batch=service.max_batch,
            max_threads=max(1, int(service.max_cores)),
            min_cores=service.min_cores if service.idle_cores is None else 0.0,  # it may have no replica
            duration_s=scenario.duration_s,
        )
        for requests in schedules
    ]
    sent = sum(len(requests) for requests in schedules)
    mean_cores = fmean(core_seconds) / scenario.duration_s
    classes = {each.name: 0.0 for each in scenario.classes}
    return PolicySummary(CLAIRVOYANT, sent, sent, 0, 0, 0.0, mean_cores, sum(core_seconds), 0, 0, None, classes)
