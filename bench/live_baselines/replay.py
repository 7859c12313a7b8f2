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
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_demo.steps import mean_of
from sponge_demo.virtual import TYPICAL, SeenUploads, size_steps
from sponge_simulator.admission import is_admitted
from sponge_simulator.fleet import ClusterModel, simulate
from sponge_simulator.metrics import METRICS_SERVER_S, Scrapes
from sponge_simulator.scaling.interface import Observation, ScalingPolicy, Service, Size
from sponge_simulator.scaling.steady_state import provisioned

__all__ = ["Seen", "Virtual", "assumed", "replay", "seen_in", "service_of", "start_of", "with_own_starts"]

UTILISATION = 0.7
"""What systems that do not decide at once are provisioned for, at the mean rate."""

COLD_START_S = 10.0
"""Of a new pod, where no run has shown any."""

NODE_CORES = 1.9
"""What a node of two cores has for the operator's pods, besides the operator itself."""

LEAD_S = 2 * METRICS_SERVER_S
"""Virtual time before the first request: metrics-server has read each pod twice by then."""


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


def with_own_starts(seen: Seen, result: Mapping[str, Any]) -> Seen:
    """The same with the cold starts of one run, if it has any: they differ with the size that pods start with."""
    cold = result["cold_starts_s"]
    return replace(seen, cold_start_s=median(cold)) if cold else seen


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


class Begun:
    """A scaling policy that begins with the schedule, as the live ones: it plans for the first time an interval later.

    Args:
        size: the pods that are there before.
        at_s: the virtual time of the schedule's begin.
    """

    def __init__(self, policy: ScalingPolicy, size: Size, at_s: float) -> None:
        self._policy = policy
        self._size = size
        self._at_s = at_s
        self.interval_s = at_s
        self.dispatch = policy.dispatch

    def arrived(self, now: float, request: Request) -> None:
        self._policy.arrived(now, request)

    def plan(self, seen: Observation) -> Size:
        if seen.now > self._at_s:
            return self._policy.plan(seen)
        if seen.now == self._at_s:
            self.interval_s = self._policy.interval_s
        return self._size


def replay(
    target: Target,
    load: Load,
    system: System,
    model: LatencyModel,
    seen: Seen,
    seed: int = 1,
    scraped_s: float | None = None,
) -> Virtual:
    """One run. All systems have the dispatch rule of the live server, and at most the target's cores together.

    Args:
        seed: of the durations of batches and resizes; the requests are the load's.
        scraped_s: when metrics-server reads the pods for the first time, in seconds of the schedule; None: unknown, so
            after half an interval, the mean of what may be.
    """
    evidence = seen.evidence
    whole = service_of(target, load, model, seen)
    service = system.service(whole)
    policy = system.policy(service)
    if system.start != "own":
        policy = Begun(policy, start_of(system, whole), LEAD_S)
    draw = random.Random(seed)
    batches = MeasuredBatches(model, evidence, seed)
    world = ClusterModel(
        LEAD_S + load.schedule.duration_s,
        lambda: draw.choice(evidence.resizes_s),
        node_cores=NODE_CORES if system.follows_load else whole.max_cores,
        by_periods=True,
        takes_s=batches.takes_s,
        learn=batches.learn,
        admits=is_admitted,
        scrapes=Scrapes((METRICS_SERVER_S / 2 if scraped_s is None else LEAD_S + scraped_s) % METRICS_SERVER_S),
    )
    if load.uplink is not None and load.payload_bytes is not None:
        world = replace(world, upload_left_s=SeenUploads(load.uplink, load.payload_bytes, LEAD_S).left_s)
    result = simulate(requests_of(load, LEAD_S), service, policy, POLICIES[DEFAULT].make(), world)
    return Virtual(
        in_time=round(result.in_time / result.sent, 4),
        by_class={name: round(share, 4) for name, share in result.attainment.items()},
        mean_cores=round(mean_of(size_steps(result.timeline, load.schedule.duration_s, LEAD_S)), 3),
        resizes=result.resizes,
        started=result.started,
    )
