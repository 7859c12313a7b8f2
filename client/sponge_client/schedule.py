"""The schedule of a load. It is complete before the first request is sent, so that no answer can delay a request.

The same arguments give the same schedule on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Schedule", "Shot", "make_schedule"]


@dataclass(frozen=True, slots=True)
class Shot:
    """One request: its send time (seconds after the start), its SLO in seconds, and the index of its body."""

    index: int
    at_s: float
    slo_s: float
    body: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Shots in order of time over `duration_s` seconds."""

    shots: tuple[Shot, ...]
    duration_s: float


def make_schedule(arrivals: Sequence[float], duration_s: float, slo_s: float, bodies: int, seed: int) -> Schedule:
    """Makes a schedule of the `arrivals` (ascending seconds) before `duration_s`; the seed chooses among `bodies`."""
    times = [at for at in arrivals if at < duration_s]
    chosen = np.random.default_rng(seed).integers(0, bodies, len(times)).tolist()
    shots = tuple(Shot(i, at, slo_s, body) for i, (at, body) in enumerate(zip(times, chosen, strict=True)))
    return Schedule(shots, duration_s)
