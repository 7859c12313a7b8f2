"""Fits the demo's workload to the machine: how fast the waves go, where Sponge starts, and which fixed size to expect.

Rates are shares of what one core of the machine answers by the measured profile, so that a machine half as fast tells
the same story at half the rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sponge_core.latency import LatencyModel
from sponge_demo.arrivals import Bursts, Waves, wave_arrivals
from sponge_demo.scenario import Scenario
from sponge_demo.virtual import TYPICAL, VirtualRun, virtual_run
from sponge_workload.bandwidth import BandwidthTrace

__all__ = ["Workload", "capacity_rps", "fit_workload", "smallest_fixed", "start_size", "waves_for"]

CREST_SHARE = 0.66
"""The rate at the crests, as a share of what one core answers: three quarters of a core carry it, half a core does not.
The cores that stay free run the control plane and the load generator, as other nodes would."""

WAVES = 2
"""In each run."""

TROUGH_S = 30.0
"""How long the start size has to carry the rate of the first second, in the simulator."""

COLD = 2.0
"""The first batches on a small quota take up to twice their profile; later ones are planned with what these took."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests of every run, and what the simulator expects of them.

    Attributes:
        arrivals: seconds after the start of a run at which requests are sent, ascending.
        rates_rps: the rate behind them for each second of a run.
        start_milli: Sponge's size as its run begins.
        fixed_milli: the smallest fixed size that keeps the target in the simulator; None if none does, or if none was
            looked for.
        capacity_rps: what one core answers; None where the rates do not depend on it.
        fixed_runs: every fixed size that was simulated in the search, by size in millicores.
    """

    arrivals: tuple[float, ...]
    rates_rps: tuple[float, ...]
    start_milli: int
    fixed_milli: int | None = None
    capacity_rps: float | None = None
    fixed_runs: Mapping[int, VirtualRun] = field(default_factory=dict)


def capacity_rps(model: LatencyModel, max_batch: int, request_s: float = TYPICAL.request_s) -> float:
    """Requests per second that one core answers in full batches.

    Args:
        request_s: CPU seconds that a request takes beside its batch.
    """
    return max_batch / (model.latency(max_batch, 1) + max_batch * request_s)


def waves_for(capacity: float, duration_s: float) -> Waves:
    """The waves of a run on a machine of which one core answers `capacity` requests per second."""
    waves = Waves(low_rps=1.0, wave_s=duration_s / WAVES)
    return replace(waves, low_rps=CREST_SHARE * capacity / waves.times)


def start_size(scenario: Scenario, waves: Waves, uplink: BandwidthTrace, model: LatencyModel) -> int:
    """The size to begin a run with: the smallest one that answers every request of a cold server if the rate stays at
    that of the first second; bursts come, too."""
    steady = replace(waves, low_rps=waves.rate_at(0.0), times=1.0)
    short = replace(scenario, duration_s=TROUGH_S)
    arrivals = wave_arrivals(steady, Bursts(), TROUGH_S, scenario.seed)
    return smallest_fixed(replace(short, target=1.0), arrivals, uplink, model.scaled(COLD))[0] or scenario.max_milli


def smallest_fixed(
    scenario: Scenario, arrivals: tuple[float, ...], uplink: BandwidthTrace, model: LatencyModel
) -> tuple[int | None, dict[int, VirtualRun]]:
    """The smallest fixed size that keeps the target in the simulator, and every size that was simulated.

    Larger sizes come first: the search ends at the first one that falls short.
    """
    tried: dict[int, VirtualRun] = {}
    good: int | None = None
    for size in reversed(scenario.sizes_milli):
        tried[size] = virtual_run(scenario, arrivals, uplink, model, fixed_milli=size)
        if tried[size].in_time_percent < 100 * scenario.target:
            break
        good = size
    return good, tried


def fit_workload(scenario: Scenario, model: LatencyModel, uplink: BandwidthTrace) -> Workload:
    """The workload for the machine on which `model` was measured.

    Args:
        uplink: as replayed, from the start of a run on.
    """
    capacity = capacity_rps(model, scenario.max_batch)
    waves = waves_for(capacity, scenario.duration_s)
    arrivals = wave_arrivals(waves, Bursts(), scenario.duration_s, scenario.seed)
    fixed_milli, fixed_runs = smallest_fixed(scenario, arrivals, uplink, model)
    return Workload(
        arrivals=arrivals,
        rates_rps=tuple(round(waves.rate_at(second + 0.5), 3) for second in range(int(scenario.duration_s))),
        start_milli=start_size(scenario, waves, uplink, model),
        fixed_milli=fixed_milli,
        capacity_rps=capacity,
        fixed_runs=fixed_runs,
    )
