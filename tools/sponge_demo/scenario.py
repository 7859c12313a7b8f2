"""What the demo serves and sends; plain data, the same for every run of a session.

Chosen so that cores matter on two of them: a model of some tens of milliseconds, at a rate that keeps less than half
of one busy, with deadlines of which the worst second of the uplink leaves an eighth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sponge_workload.bandwidth import BandwidthTrace
from sponge_workload.files import load_bandwidth

__all__ = ["Scenario", "around_worst_second", "uplink_of"]

WORST_AT = 0.6
"""Where in a run its worst second lies: late enough for a calm before it, early enough for what follows."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """CPU in millicores, as at the Kubernetes API."""

    duration_s: float
    model: str = "resnet18"
    source: str = "torchvision://resnet18?weights=none"
    slo_s: float = 0.8
    rate_rps: float = 9.0
    arrivals: str = "poisson"
    payload_bytes: int = 303_600
    max_batch: int = 8
    min_milli: int = 250
    max_milli: int = 1500
    step_milli: int = 125
    target: float = 0.99
    profile: str = "resnet18-epyc"
    seed: int = 1

    @property
    def sizes_milli(self) -> tuple[int, ...]:
        """Every size that a server may have, ascending."""
        return tuple(range(self.min_milli, self.max_milli + 1, self.step_milli))


def around_worst_second(trace: BandwidthTrace, duration_s: float) -> float:
    """From which second on to replay `trace`, so that a run of `duration_s` holds the worst one."""
    ends, at = [], 0.0
    for length in trace.durations_s:
        ends.append(at)
        at += length
    worst = min(range(len(ends)), key=lambda index: trace.bytes_per_s[index])
    return max(0.0, round(ends[worst] - WORST_AT * duration_s)) if duration_s < trace.duration_s else 0.0


def uplink_of(scenario: Scenario, environment: Mapping[str, str]) -> tuple[BandwidthTrace, float]:
    """The recorded 4G trace or its synthetic stand-in, and the second from which it is replayed."""
    trace = load_bandwidth("4g", scenario.seed, environment)
    assert trace is not None
    return trace, around_worst_second(trace, scenario.duration_s)
