"""Fits the times of batches over a grid of row sizes: l of (batch, threads, size).

The form is l(b, k) of `fitting` with a row's parallel and serial part as polynomials of its size: a constant, a linear
and a quadratic term. It is non-negative, relative and robust for the same reasons. The error on sizes that the fit has
not seen comes from leaving out one size after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from sponge_core.errors import ProfileError
from sponge_core.latency import LatencyModel, SizeCurve
from sponge_profiles.fitting import DEFAULT_PARALLEL_SHARE, Point, best_within_threads, coefficients

__all__ = ["Join", "SizeFit", "SizedTime", "fit_sizes"]

Join = Literal["padded", "ragged", "alike"]
"""What a batch of several sizes costs, as in `SizeCurve`."""

LEAST_SIZES = 3
"""Three sizes tell a line from a curve."""


@dataclass(frozen=True, slots=True)
class SizedTime(Point):
    """A measured time of a batch whose rows all have one size, in seconds."""

    size: float


@dataclass(frozen=True, slots=True)
class SizeFit:
    """A model of sizes and its accuracy.

    Attributes:
        model: with a `SizeCurve`; its gamma and delta are those of the reference size.
        errors: measured / predicted - 1, in the order of the times.
        unseen: the same for each time that is not of the reference size, predicted from the times of all other sizes;
            empty if these are too few.
    """

    model: LatencyModel
    errors: tuple[float, ...]
    unseen: tuple[float, ...]


def fit_sizes(times: Sequence[SizedTime], reference: float, join: Join) -> SizeFit:
    """Fits the non-negative model that is closest to the times in relative terms.

    Args:
        times: of at least three sizes.
        reference: the size that gamma and delta of the model are for.
        join: what a batch of several sizes costs. With `alike`, or where there is one batch size, nothing tells the
            fixed part of a batch from that of a row.

    Raises:
        ProfileError: too few sizes.
    """
    sizes = sorted({time.size for time in times})
    if len(sizes) < LEAST_SIZES:
        raise ProfileError(f"{len(sizes)} sizes of rows were measured: measure at least {LEAST_SIZES}")
    model = _fit(times, reference, join)
    unseen: list[float] = []
    if len(sizes) > LEAST_SIZES:
        for size in sizes:
            if size != reference:  # its times tell what larger batches cost
                others = _fit([time for time in times if time.size != size], reference, join)
                unseen += [_error(others, time) for time in times if time.size == size]
    errors = tuple(_error(model, time) for time in times)
    allowed = max(0.0, round(float(np.quantile(errors, 0.9)), 4))
    return SizeFit(replace(model, error=allowed), errors, tuple(unseen))


def _error(model: LatencyModel, time: SizedTime) -> float:
    return time.latency_s / model.at(time.size).latency(time.batch, time.threads) - 1.0


def _fit(times: Sequence[SizedTime], reference: float, join: Join) -> LatencyModel:
    times = best_within_threads(times, lambda time: (time.batch, time.size))
    measured = np.array([time.latency_s for time in times])
    # Sizes as multiples of the reference, so that all columns have about the same scale.
    design = _columns(times, reference)
    p0, p1, p2, d0, d1, d2, epsilon, eta = coefficients(design, _identifiable(times), measured)
    gamma, delta = p0 + p1 + p2, d0 + d1 + d2
    curve = SizeCurve(_relative(p0, p1, p2, reference), _relative(d0, d1, d2, reference), join)
    return LatencyModel(gamma, delta, epsilon, eta, sizes=curve)


def _relative(constant: float, linear: float, square: float, reference: float) -> tuple[float, float, float]:
    """The factors of a curve that is 1 at the reference."""
    whole = constant + linear + square
    if whole == 0:
        return 0.0, 0.0, 0.0
    return constant / whole, linear / whole / reference, square / whole / reference**2


def _columns(times: Sequence[SizedTime], reference: float) -> npt.NDArray[np.float64]:
    rows = []
    for time in times:
        ratio = time.size / reference
        powers = (1.0, ratio, ratio**2)
        parallel = [time.batch * power / time.threads for power in powers]
        rows.append([*parallel, *(time.batch * power for power in powers), 1.0 / time.threads, 1.0])
    return np.array(rows)


def _identifiable(times: Sequence[SizedTime]) -> npt.NDArray[np.float64]:
    """Combinations of the eight coefficients, one a column, that these times can tell apart."""
    several_batches = len({time.batch for time in times}) > 1
    if len({time.threads for time in times}) > 1:
        every = np.eye(8)
        return every if several_batches else every[:, :6]
    share = DEFAULT_PARALLEL_SHARE
    columns = np.zeros((8, 4))
    for power in range(3):
        columns[power, power], columns[power + 3, power] = share, 1 - share
    columns[6, 3], columns[7, 3] = share, 1 - share
    return columns if several_batches else columns[:, :3]
