"""The schedules of requests that every system gets, and the service that answers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sponge_client.schedule import Schedule, Shot
from sponge_core.edf_queue import Request
from sponge_demo.arrivals import Bursts, Waves, wave_arrivals
from sponge_demo.scenario import around_worst_second
from sponge_workload.bandwidth import BandwidthTrace
from sponge_workload.files import load_bandwidth

__all__ = ["SCHEDULES", "Load", "Target", "requests_of"]

BODIES = 4
"""Photographs that a load chooses from, as `sponge_client.payloads` makes them."""


@dataclass(frozen=True, slots=True)
class Target:
    """The service that every system runs. CPU in millicores.

    Attributes:
        most_milli: of all pods together.
        replica_milli: of a pod of systems that scale by the number of pods.
        step_milli, least_milli: sizes of a pod that is resized.
    """

    model: str = "resnet18"
    source: str = "torchvision://resnet18?weights=none"
    profile: str = "resnet18-epyc"
    slo_s: float = 0.8
    max_batch: int = 4
    least_milli: int = 250
    most_milli: int = 1500
    step_milli: int = 125
    replica_milli: int = 500
    target: float = 0.99

    @property
    def most_replicas(self) -> int:
        return self.most_milli // self.replica_milli


@dataclass(frozen=True, slots=True)
class Load:
    """A schedule with its uplink; None sends every body at once. `payload_bytes`: None is the size of a photograph."""

    name: str
    schedule: Schedule
    uplink: BandwidthTrace | None = None
    payload_bytes: int | None = None

    @property
    def rate_rps(self) -> float:
        """The mean over the schedule."""
        return len(self.schedule.shots) / self.schedule.duration_s

    def upload_s(self, shot: Shot) -> float:
        """Seconds until the body of a request is in."""
        if self.uplink is None or self.payload_bytes is None:
            return 0.0
        return self.uplink.upload_s(shot.at_s, self.payload_bytes)


def rising(target: Target, duration_s: float, seed: int, _environment: Mapping[str, str]) -> Load:
    """A rate that rises eightfold and falls back, once."""
    arrivals = wave_arrivals(Waves(low_rps=4.0, wave_s=duration_s), Bursts(requests=0), duration_s, seed)
    return Load("rising", _schedule(arrivals, [target.slo_s], duration_s, seed))


def bursts(target: Target, duration_s: float, seed: int, _environment: Mapping[str, str]) -> Load:
    """A low rate, and 20 requests at once in every 10 s."""
    steady = Waves(low_rps=6.0, times=1.0, wave_s=duration_s)
    arrivals = wave_arrivals(steady, Bursts(every_s=10.0, requests=20), duration_s, seed)
    return Load("bursts", _schedule(arrivals, [target.slo_s], duration_s, seed))


def uplink(target: Target, duration_s: float, seed: int, environment: Mapping[str, str]) -> Load:
    """Large photographs over a 4G uplink around its worst second, at a rate that rises sixfold and falls, twice."""
    trace = load_bandwidth("4g", seed, environment)
    assert trace is not None
    arrivals = wave_arrivals(Waves(5.0, times=6.0, wave_s=duration_s / 2), Bursts(requests=0), duration_s, seed)
    replayed = trace.starting_at(around_worst_second(trace, duration_s))
    return Load("4g", _schedule(arrivals, [target.slo_s], duration_s, seed), replayed, 303_600)


def classes(target: Target, duration_s: float, seed: int, _environment: Mapping[str, str]) -> Load:
    """A rate that rises sixfold and falls back, twice; half of the requests have half of the time, half have more."""
    arrivals = wave_arrivals(Waves(5.0, times=6.0, wave_s=duration_s / 2), Bursts(requests=0), duration_s, seed)
    return Load("classes", _schedule(arrivals, [target.slo_s / 2, 1.5 * target.slo_s], duration_s, seed))


SCHEDULES: Mapping[str, Callable[[Target, float, int, Mapping[str, str]], Load]] = {
    "rising": rising,
    "bursts": bursts,
    "4g": uplink,
    "classes": classes,
}


def _schedule(arrivals: Sequence[float], slos_s: Sequence[float], duration_s: float, seed: int) -> Schedule:
    draw = np.random.default_rng((seed, 2))
    slos, bodies = draw.integers(0, len(slos_s), len(arrivals)), draw.integers(0, BODIES, len(arrivals))
    rows = zip(arrivals, slos.tolist(), bodies.tolist(), strict=True)
    return Schedule(tuple(Shot(i, at, slos_s[slo], body) for i, (at, slo, body) in enumerate(rows)), duration_s)


def requests_of(load: Load, lead_s: float) -> list[Request]:
    """The requests as they reach the servers, once their bodies are in; the schedule begins at `lead_s`."""
    rows = sorted((shot.at_s + load.upload_s(shot), shot.at_s, shot.slo_s) for shot in load.schedule.shots)
    return [
        Request(number, lead_s + arrival, lead_s + at + slo_s, lead_s + at, slo_class=f"{slo_s * 1000:.0f} ms")
        for number, (arrival, at, slo_s) in enumerate(rows)
    ]
