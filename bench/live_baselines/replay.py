"""The same requests in virtual time, with what the live runs have shown of batches, resizes and cold starts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import Any

from bench.fidelity import Evidence, MeasuredBatches
from bench.live_baselines.schedules import Load, Target, requests_of
from bench.live_baselines.systems import System
from sponge_core.dispatch.registry import DEFAULT, POLICIES
from sponge_core.latency import LatencyModel
from sponge_demo.steps import mean_of
from sponge_demo.virtual import LEAD_S, TYPICAL, HeldSize, SeenUploads, size_steps
from sponge_simulator.fleet import ClusterModel, simulate
from sponge_simulator.scaling.interface import Service, Size
from sponge_simulator.scaling.steady_state import provisioned

__all__ = ["Seen", "Virtual", "assumed", "replay", "seen_in", "service_of", "start_of"]

UTILISATION = 0.7
"""What systems that do not decide at once are provisioned for, at the mean rate."""

COLD_START_S = 10.0
"""Of a new pod, where no run has shown any."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the live runs have shown of the machine."""

    evidence: Evidence
    cold_start_s: float


@dataclass(frozen=True, slots=True)
class Virtual:
    """The account of one run in virtual time; `in_time` is a share, by SLO class too."""

    in_time: float
    by_class: Mapping[str, float]
    mean_cores: float
    resizes: int
    started: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for a document."""
        return asdict(self)


def assumed(target: Target, model: LatencyModel) -> Seen:
    """What is expected before any live run: the profile, and the demo's losses."""
    batches: dict[int, tuple[float, ...]] = {
        rows: (model.latency(rows, 1) + TYPICAL.request_s * rows,) for rows in range(1, target.max_batch + 1)
    }
    return Seen(Evidence(batches, TYPICAL.resizes_s, TYPICAL.overhead_cores), COLD_START_S)


def seen_in(results: Sequence[Mapping[str, Any]], otherwise: Seen) -> Seen:
    """What these live results show; `otherwise` where they show nothing."""
    batches: dict[int, tuple[float, ...]] = {}
    for result in results:
        for rows, times in result["batches_s"].items():
            batches[int(rows)] = (*batches.get(int(rows), ()), *times)
    resizes = tuple(took for result in results for took in result["resizes_s"])
    overheads = [result["overhead_cores"] for result in results if result["overhead_cores"] > 0]
    cold = [took for result in results for took in result["cold_starts_s"]]
    before = otherwise.evidence
    evidence = Evidence(
        dict(sorted(batches.items())) or before.batches_s,
        resizes or before.resizes_s,
        fmean(overheads) if overheads else before.overhead_cores,
    )
    return Seen(evidence, median(cold) if cold else otherwise.cold_start_s)


def service_of(target: Target, load: Load, model: LatencyModel, seen: Seen) -> Service:
    """The service as policies know it."""
    return Service(
        model,
        target.slo_s,
        load.rate_rps,
        target.max_batch,
        target.least_milli / 1000,
        target.most_milli / 1000,
        target.step_milli / 1000,
        max_replicas=target.most_replicas,
        replica_cores=target.replica_milli / 1000,
        cold_start_s=seen.cold_start_s,
        resize_s=median(seen.evidence.resizes_s),
        overhead_cores=seen.evidence.overhead_cores,
    )


def start_of(system: System, service: Service) -> Size:
    """What a system begins with."""
    if system.start == "own":
        milli = system.pod_milli
        return Size(service.min_cores if milli is None else milli / 1000, service.max_batch)
    size = provisioned(service, UTILISATION)
    return size if system.start == "replicas" else Size(size.cores * size.replicas, size.batch_cap)


def replay(target: Target, load: Load, system: System, model: LatencyModel, seen: Seen, seed: int = 1) -> Virtual:
    """One run. All systems have the dispatch rule of the live server, and at most the target's cores together."""
    evidence = seen.evidence
    whole = service_of(target, load, model, seen)
    service = system.service(whole)
    policy = system.policy(service)
    if system.start != "own":
        policy = HeldSize(policy, start_of(system, whole), LEAD_S)
    draw = random.Random(seed)
    batches = MeasuredBatches(model, evidence, seed)
    world = ClusterModel(
        LEAD_S + load.schedule.duration_s,
        lambda: draw.choice(evidence.resizes_s),
        node_cores=whole.max_cores,
        by_periods=True,
        takes_s=batches.takes_s,
        learn=batches.learn,
    )
    if load.uplink is not None and load.payload_bytes is not None:
        world = replace(world, upload_left_s=SeenUploads(load.uplink, load.payload_bytes).left_s)
    result = simulate(requests_of(load, LEAD_S), service, policy, POLICIES[DEFAULT].make(), world)
    return Virtual(
        in_time=round(result.in_time / result.sent, 4),
        by_class={name: round(share, 4) for name, share in result.attainment.items()},
        mean_cores=round(mean_of(size_steps(result.timeline, load.schedule.duration_s)), 3),
        resizes=result.resizes,
        started=result.started,
    )
