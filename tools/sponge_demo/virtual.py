"""A run of the demo in virtual time: the production code decides, on requests and delays as in a real pod.

The simulator is told what makes a pod slower than its profile: how long resizes take, the CPU that is used beside the
batches, the noise of batch times, a quota that the kernel hands out by periods, and a server that sees only those bytes
of an upload that have come.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sponge_client.load import CHUNK_BYTES
from sponge_core.calibration import Calibration
from sponge_core.dispatch.decision import Launch
from sponge_core.dispatch.registry import POLICIES
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_demo.scenario import Scenario
from sponge_demo.steps import corners, mean_of
from sponge_server.uploads import Upload, Uploads
from sponge_simulator.fleet import ClusterModel, TimelinePoint, simulate
from sponge_simulator.scaling.interface import Observation, ScalingPolicy, Service, Size
from sponge_simulator.scaling.sponge_deployed import SpongeDeployed
from sponge_simulator.scaling.static import Static
from sponge_workload.bandwidth import BandwidthTrace

__all__ = [
    "LEAD_S",
    "TYPICAL",
    "CalibratedBatches",
    "Frictions",
    "HeldSize",
    "SeenUploads",
    "VirtualRun",
    "service_of",
    "size_steps",
    "to_the_ms",
    "virtual_requests",
    "virtual_run",
]

LEAD_S = 5.0
"""Virtual time before the first request."""

HELD_S = 1.0
"""Sponge takes over with the first answer, about this long after the start of a run."""

JSON_BYTES = 157
"""Of a request, before the first byte of its image: they leave with the headers."""

FASTEST = 0.9
"""No batch takes less than this share of the time that the profile gives."""


@dataclass(frozen=True, slots=True)
class Frictions:
    """What a pod loses against its profile.

    Attributes:
        resizes_s: durations of resizes; one is drawn for each.
        overhead_cores: used by the server beside its batches, whatever the load.
        request_s: CPU seconds of a request beside its batch: reading, decoding, answering.
        noise: standard deviation of the logarithm of a batch's time.
    """

    resizes_s: tuple[float, ...]
    overhead_cores: float
    request_s: float
    noise: float


TYPICAL = Frictions((0.037, 0.04, 0.045, 0.05, 0.07, 0.2), 0.03, 0.0025, 0.08)
"""Resizes as `bench.resize_latency` measures them; overhead and request time by `bench.fidelity` (0.024 cores at 9
requests/s); the noise is assumed."""


@dataclass(frozen=True, slots=True)
class VirtualRun:
    """The account of one run. `steps`: (seconds after the start, cores from then on), up to the end of the run."""

    sent: int
    in_time: int
    steps: tuple[tuple[float, float], ...]

    @property
    def in_time_percent(self) -> float:
        """Of all requests that were sent."""
        return 100.0 * self.in_time / self.sent if self.sent else 100.0

    @property
    def mean_cores(self) -> float:
        """Weighted by time."""
        return mean_of(self.steps)


def virtual_requests(scenario: Scenario, arrivals: Sequence[float], uplink: BandwidthTrace) -> list[Request]:
    """The requests as they reach the server: each has an uplink of its own, and arrives once its body is in.

    Args:
        arrivals: seconds after the start at which requests are sent.
        uplink: as replayed, from the start of the run on.
    """
    rows = sorted((at + uplink.upload_s(at, scenario.payload_bytes), at) for at in arrivals)
    return [
        Request(number, LEAD_S + arrival, LEAD_S + at + scenario.slo_s, LEAD_S + at)
        for number, (arrival, at) in enumerate(rows)
    ]


class SeenUploads:
    """Uploads as a server expects them to go on: it knows the bytes that it has read, which came in pieces.

    Args:
        lead_s: the virtual time at which the uplink's recording begins.
    """

    def __init__(self, uplink: BandwidthTrace, payload_bytes: int, lead_s: float = LEAD_S) -> None:
        self._uplink = uplink
        self._bytes = payload_bytes
        self._lead_s = lead_s

    def left_s(self, request: Request, received_at: float, now: float) -> float:
        """Seconds from `now` until the body is expected to be in, by what had come at `received_at`."""
        began = self._uplink.carried(request.sent - self._lead_s)
        came = self._uplink.carried(max(received_at, request.sent) - self._lead_s) - began
        upload = Upload(request.sent, request.deadline, self._bytes)
        upload.received = JSON_BYTES + int(max(0.0, came - JSON_BYTES) // CHUNK_BYTES) * CHUNK_BYTES
        return Uploads((upload,)).arrivals(now)[0].at - now


def service_of(
    scenario: Scenario, model: LatencyModel, rate_rps: float, resizes_s: Sequence[float], overhead_cores: float
) -> Service:
    """The scenario's service in one pod, as the simulator's policies know it.

    Args:
        resizes_s: durations of resizes; policies count on their mean.
        overhead_cores: used by the server beside its batches.
    """
    return Service(
        model,
        scenario.slo_s,
        rate_rps,
        scenario.max_batch,
        scenario.min_milli / 1000,
        scenario.max_milli / 1000,
        scenario.step_milli / 1000,
        max_replicas=1,
        resize_s=fmean(resizes_s),
        overhead_cores=overhead_cores,
    )


def virtual_run(
    scenario: Scenario,
    arrivals: Sequence[float],
    uplink: BandwidthTrace,
    model: LatencyModel,
    fixed_milli: int | None = None,
    start_milli: int | None = None,
    frictions: Frictions = TYPICAL,
) -> VirtualRun:
    """One run: of a fixed size, or sized by Sponge.

    Args:
        model: the profile that the server plans with.
        fixed_milli: the size; None for Sponge.
        start_milli: the size that Sponge starts from; None for the one that it idles at.
    """
    rate_rps = len(arrivals) / scenario.duration_s
    service = service_of(scenario, model, rate_rps, frictions.resizes_s, frictions.overhead_cores)
    scaling: ScalingPolicy
    if fixed_milli is not None:
        scaling = Static(service, fixed_milli / 1000)
    else:
        scaling = SpongeDeployed(service, scenario.look_back_s)
        if start_milli is not None:
            scaling = HeldSize(scaling, Size(start_milli / 1000, scenario.max_batch), LEAD_S + HELD_S)
    dispatcher = POLICIES[SpongeDeployed.dispatch].make()
    draw = random.Random(scenario.seed)
    batches = _NoisyBatches(model, frictions, scenario.seed)
    world = ClusterModel(
        LEAD_S + scenario.duration_s,
        lambda: draw.choice(frictions.resizes_s),
        by_periods=True,
        takes_s=batches.takes_s,
        learn=batches.learn,
        upload_left_s=SeenUploads(uplink, scenario.payload_bytes).left_s,
    )
    result = simulate(virtual_requests(scenario, arrivals, uplink), service, scaling, dispatcher, world)
    return VirtualRun(result.sent, result.in_time, tuple(size_steps(result.timeline, scenario.duration_s)))


def size_steps(
    timeline: Sequence[TimelinePoint], duration_s: float, lead_s: float = LEAD_S
) -> list[tuple[float, float]]:
    """(seconds after the start, cores from then on) from 0 to `duration_s`, one for each change."""
    return to_the_ms(corners([(moment.at_s - lead_s, moment.cores) for moment in timeline], duration_s))


def to_the_ms(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A step line with its times rounded to milliseconds."""
    return [(round(at, 3), value) for at, value in line]


class HeldSize:
    """A scaling policy whose plans count from `until_s` on; before, the size is held."""

    def __init__(self, policy: ScalingPolicy, size: Size, until_s: float) -> None:
        self._policy = policy
        self._size = size
        self._until_s = until_s
        self.interval_s = policy.interval_s
        self.dispatch = policy.dispatch

    def arrived(self, now: float, request: Request) -> None:
        self._policy.arrived(now, request)

    def plan(self, seen: Observation) -> Size:
        planned = self._policy.plan(seen)
        return planned if seen.now >= self._until_s else self._size


class CalibratedBatches:
    """A server that corrects its profile by every batch, as the real one does. Subclasses say how long batches take."""

    def __init__(self, profile: LatencyModel, seed: int) -> None:
        self._profile = profile
        self._draw = random.Random(seed)
        self._correction = Calibration()

    def learn(self, launch: Launch, took_s: float) -> LatencyModel:
        """The profile after a batch that took `took_s` seconds at full speed."""
        predicted_s = self._profile.latency(len(launch.requests), launch.threads)
        self._correction.observe(predicted_s, took_s, launch.threads)
        return self._correction.calibrated(self._profile)


class _NoisyBatches(CalibratedBatches):
    """Batches whose times scatter around the profile."""

    def __init__(self, profile: LatencyModel, frictions: Frictions, seed: int) -> None:
        super().__init__(profile, seed)
        self._frictions = frictions

    def takes_s(self, launch: Launch) -> float:
        rows = len(launch.requests)
        noise = max(FASTEST, self._draw.lognormvariate(0, self._frictions.noise))
        return self._profile.latency(rows, launch.threads) * noise + self._frictions.request_s * rows
