"""The load of a run, fixed before its first request: send times, SLOs and inputs.

Pure: the same mix, rate, length and seed give the same shots on any machine, for every system under test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sponge_client.schedule import Shot
from sponge_workload.arrivals import poisson_arrivals
from sponge_workload.bandwidth import BandwidthTrace

__all__ = ["MIXES", "Mix", "fingerprint", "make_shots", "varying_shots"]

PAYLOAD_BYTES = 303_600
END_TO_END_S = 1.0
LEAST_S = 0.001
WORST_AT = 0.6
SHORTEST_GAP_S = 10.0


@dataclass(frozen=True, slots=True)
class Mix:
    """A mix of deadlines.

    Attributes:
        bounds_s: a request is of the first class whose bound its SLO does not exceed.
        classes: their names.
    """

    name: str
    title: str
    bounds_s: tuple[float, ...]
    classes: tuple[str, ...]

    def class_of(self, slo_s: float) -> str:
        for bound, name in zip(self.bounds_s, self.classes, strict=True):
            if slo_s <= bound + 1e-9:
                return name
        return self.classes[-1]

    def slowed(self, factor: float) -> Mix:
        """With every deadline so many times later."""
        return replace(self, bounds_s=tuple(factor * bound for bound in self.bounds_s))


MIXES = {
    mix.name: mix
    for mix in (
        Mix("classes", "half 300 ms, half 1000 ms", (0.3, 1.0), ("300 ms", "1000 ms")),
        Mix("texts", "half 200 ms, half 1000 ms on a machine of the usual speed", (0.2, 1.0), ("tight", "loose")),
        Mix("4g", "1000 ms end to end over 4G", (0.7, 0.88, 1.0), ("under 700 ms", "700-880 ms", "over 880 ms")),
    )
}
"""The 4G classes are by remaining SLO after the upload."""


def make_shots(
    mix: Mix, rate_rps: float, duration_s: float, seed: int, uplink: BandwidthTrace, inputs: int
) -> tuple[Shot, ...]:
    """Poisson arrivals for `duration_s` seconds.

    Args:
        inputs: how many there are to choose from.
        uplink: of the `4g` mix; each seed replays another window around one of its worst seconds.
    """
    return _shots(mix, poisson_arrivals(rate_rps, duration_s, seed), duration_s, seed, uplink, inputs)


def varying_shots(
    mix: Mix, rates_rps: Sequence[float], step_s: float, seed: int, uplink: BandwidthTrace, inputs: int
) -> tuple[Shot, ...]:
    """Poisson arrivals whose rate takes each of `rates_rps` in turn for `step_s` seconds."""
    sent: list[float] = []
    for index, rate in enumerate(rates_rps):
        sent += [index * step_s + at for at in poisson_arrivals(rate, step_s, 1000 * seed + index)]
    return _shots(mix, sent, len(rates_rps) * step_s, seed, uplink, inputs)


def fingerprint(shots: Sequence[Shot]) -> str:
    """A digest that is equal for equal schedules."""
    text = ";".join(f"{shot.at_s:.6f},{shot.slo_s:.6f},{shot.body}" for shot in shots)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _shots(
    mix: Mix, sent: Sequence[float], duration_s: float, seed: int, uplink: BandwidthTrace, inputs: int
) -> tuple[Shot, ...]:
    rng = np.random.default_rng((seed, 7))
    bodies = rng.integers(0, inputs, len(sent)).tolist()
    if mix.name == "4g":
        window = uplink.starting_at(_window_from(uplink, duration_s, seed))
        uploads = [window.upload_s(at, PAYLOAD_BYTES) for at in sent]
        # The server sees a request after its upload, with the remaining SLO.
        due = sorted((at + up, max(END_TO_END_S - up, LEAST_S)) for at, up in zip(sent, uploads, strict=True))
    else:
        tight = rng.random(len(sent)) < 0.5
        due = [(at, mix.bounds_s[0] if is_tight else mix.bounds_s[1]) for at, is_tight in zip(sent, tight, strict=True)]
    return tuple(Shot(i, at, slo, body) for i, ((at, slo), body) in enumerate(zip(due, bodies, strict=True)))


def _window_from(uplink: BandwidthTrace, duration_s: float, seed: int) -> float:
    """Start of a seed's window: around the worst second, the second worst outside of that window, and so on."""
    gap = max(duration_s, SHORTEST_GAP_S)
    starts = np.cumsum([0.0, *uplink.durations_s[:-1]])
    chosen: list[float] = []
    for index in np.argsort(uplink.bytes_per_s, kind="stable"):
        at = float(starts[index])
        if all(abs(at - other) >= gap for other in chosen):
            chosen.append(at)
            if len(chosen) > seed:
                break
    return float(chosen[seed % len(chosen)] - WORST_AT * duration_s) % uplink.duration_s
