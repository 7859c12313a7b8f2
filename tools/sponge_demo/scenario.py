"""What the demo serves: the model, its deadline, the sizes of its pod, and the uplink of its clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sponge_workload.bandwidth import BandwidthTrace
from sponge_workload.files import load_bandwidth

__all__ = ["Scenario", "around_worst_second", "uplink_of"]

WORST_AT = 0.6
"""Where in a run its worst second lies, as a share of the run."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The service and its clients, the same for every run of a session. CPU is in millicores.

    Attributes:
        duration_s: of one run.
        slo_s: the deadline of a request after it was due to be sent; the upload counts.
        target: the share of requests in time that a fixed size has to keep.
        look_back_s: a shrink waits until the larger size has not been needed for this long. Twice the default, because
            a resize is dear where the control plane runs on the cores that it divides.
        profile: a shipped latency profile, or auto: the server measures one at its start.
        seed: of the arrivals, and of the uplink where it is synthetic.
    """

    duration_s: float
    model: str = "mobilenet-v3-large"
    source: str = "torchvision://mobilenet_v3_large?weights=none"
    slo_s: float = 1.0
    payload_bytes: int = 200_000
    max_batch: int = 4
    min_milli: int = 250
    max_milli: int = 1250
    step_milli: int = 250
    target: float = 0.99
    look_back_s: float = 2.0
    profile: str = "auto"
    seed: int = 1

    @property
    def sizes_milli(self) -> tuple[int, ...]:
        """Every size that a server may have, ascending."""
        return tuple(range(self.min_milli, self.max_milli + 1, self.step_milli))


def around_worst_second(trace: BandwidthTrace, duration_s: float) -> float:
    """The second of `trace` from which a run of `duration_s` has to replay it to hold its worst second."""
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
