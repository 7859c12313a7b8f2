"""The measured points of a profile.

Each has latency percentiles of a batch: with a core for every thread, under a fraction of a core, or beside lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sponge_profiles.size_fit import Join

__all__ = [
    "GridPoint",
    "LanePoint",
    "LatencyPercentiles",
    "Part",
    "QuotaPoint",
    "SizeTerms",
    "SizedPoint",
    "contradictions",
]

_FASTER_TOLERANCE = 0.10  # noise: a larger batch may measure this much faster


class Part(BaseModel):
    """A part of the file: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LatencyPercentiles(Part):
    """Percentiles over `n` batches; None where not known."""

    p50_ms: float | None = Field(default=None, gt=0)
    p95_ms: float | None = Field(default=None, gt=0)
    p99_ms: float | None = Field(default=None, gt=0)
    n: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _ascending(self) -> LatencyPercentiles:
        known = [(q, value) for q in (50, 95, 99) if (value := self.at(q)) is not None]
        for (low, less), (high, more) in pairwise(known):
            if more < less:
                raise ValueError(
                    f"p{high}_ms is {more:g} but p{low}_ms is {less:g}: a higher percentile cannot be less"
                )
        return self

    def at(self, percentile: int) -> float | None:
        """Milliseconds at 50, 95 or 99 %; None if not known."""
        return {50: self.p50_ms, 95: self.p95_ms, 99: self.p99_ms}[percentile]


class GridPoint(LatencyPercentiles):
    """Latency of one (batch, threads), with a core for every thread."""

    batch: int = Field(ge=1)
    threads: int = Field(ge=1)


class SizedPoint(GridPoint):
    """The same with rows of one size, where rows differ in size."""

    size: float = Field(gt=0)


class SizeTerms(Part):
    """How a row's time grows with its size, as factors on gamma and delta: (p0, p1, p2) is p0 + p1*s + p2*s**2.

    `reference` is the size that gamma and delta are for. `join` says what a batch of several sizes costs: as if each
    row had the largest (`padded`), each row its own (`ragged`), or there are no such batches (`alike`).
    `unseen_p80_percent`: 80 % of the points are this close to a fit that has not seen their size.
    """

    reference: float = Field(gt=0)
    join: Join
    parallel: tuple[float, float, float]
    serial: tuple[float, float, float]
    unseen_p80_percent: float | None = Field(default=None, ge=0)


class QuotaPoint(LatencyPercentiles):
    """Latency of a batch under a fraction of a core, and so throttled."""

    cores: float = Field(gt=0)
    batch: int = Field(ge=1)


class LanePoint(LatencyPercentiles):
    """Latency of a batch on one thread beside lanes with batches of the same size; `alone_p50_ms` is without them."""

    lanes: int = Field(ge=2)
    batch: int = Field(ge=1)
    alone_p50_ms: float = Field(gt=0)

    @property
    def slowdown(self) -> float:
        """Median beside the others over median alone."""
        return (self.p50_ms or self.alone_p50_ms) / self.alone_p50_ms


def contradictions(points: Sequence[GridPoint], percentile: int) -> list[tuple[GridPoint, GridPoint]]:
    """Pairs on the same threads where the second, larger batch was faster than the first by more than noise."""
    return [
        (small, large)
        for small in points
        for large in points
        if large.threads == small.threads
        and large.batch > small.batch
        and (slow := small.at(percentile)) is not None
        and (fast := large.at(percentile)) is not None
        and fast < slow * (1 - _FASTER_TOLERANCE)
    ]
