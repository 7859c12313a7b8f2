"""Fits l(b, k) to measured points: non-negative, relative and robust.

Non-negative, because a negative part predicts times below zero outside its grid. Relative, because a millisecond
matters more to a batch of one than to a batch of sixteen. Robust, because one point measured beside a noisy neighbour
must not distort the others.

Small models get slower with more threads, which the formula cannot express and no scheduler needs to know. Such a point
counts as the time of the best smaller number of threads: the fit then promises no gain, and the threads stay unused.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sponge_core.errors import ProfileError
from sponge_core.latency import LatencyModel

__all__ = ["DEFAULT_PARALLEL_SHARE", "Fit", "Point", "best_within_threads", "coefficients", "fit", "judge"]

DEFAULT_PARALLEL_SHARE = 0.8
"""The parallel share of a batch's time, assumed if only one thread count was measured. The published fits have 0.80
(ResNet-18) and 0.85 (YOLOv5s) per item ("Sponge", EuroMLSys 2024); the lower one promises less."""

_OUTLIER_RELATIVE = 0.05  # beyond 5 % off, a point's pull on the fit grows linearly instead of quadratically

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """A measured latency of one (batch, threads), in seconds, at one percentile."""

    batch: int
    threads: int
    latency_s: float


T = TypeVar("T", bound=Point)


@dataclass(frozen=True, slots=True)
class Fit:
    """A model and its accuracy: quantiles of measured / predicted - 1, R2, and the mean absolute error in percent."""

    model: LatencyModel
    r2: float
    mape_percent: float
    error_p50: float
    error_p90: float
    error_max: float


def fit(points: Sequence[Point], parallel_share: float = DEFAULT_PARALLEL_SHARE) -> Fit:
    """Fits the non-negative model that is closest to the points in relative terms.

    With a single thread count, the parallel and serial parts cannot be told apart; `parallel_share` splits them
    (Amdahl's law). With a single batch size, all of the time counts as per item.

    Args:
        parallel_share: fraction of the time that threads divide, 0 to 1.

    Raises:
        ProfileError: no points, or a latency that is not positive.
    """
    if not points:
        raise ProfileError("no measured points to fit; measure at least one batch size")
    for point in points:
        if not point.latency_s > 0:
            raise ProfileError(f"l({point.batch}, {point.threads}) is {point.latency_s * 1e3:g} ms: must be above 0")
    points = best_within_threads(points)
    expand = _identifiable(points, parallel_share)
    measured = np.array([p.latency_s for p in points])
    gamma, delta, epsilon, eta = coefficients(_design(points), expand, measured)
    return judge(LatencyModel(gamma, delta, epsilon, eta), points)


def coefficients(design: _Array, expand: _Array, measured: _Array) -> list[float]:
    """The coefficients, none negative, whose predictions have the smallest relative errors; outliers count less.

    Args:
        design: a row for each measured time, a column for each coefficient.
        expand: combinations of the coefficients, one a column, that the times can tell apart.
        measured: the times, in seconds.
    """
    from scipy.optimize import least_squares, nnls  # here: a second of import, which a server's start need not wait for

    # Each row is divided by its measured value, so that a residual is a relative error.
    rows = design @ expand / measured[:, None]
    start, _ = nnls(rows, np.ones(len(rows)))
    solution = least_squares(
        lambda theta: rows @ theta - 1.0,
        np.maximum(start, 1e-12),
        bounds=(0.0, np.inf),
        x_scale=np.maximum(start, float(measured.min()) * 1e-3),
        loss="soft_l1",
        f_scale=_OUTLIER_RELATIVE,
    )
    return [_clean(value, measured) for value in expand @ solution.x]


def judge(model: LatencyModel, points: Sequence[Point]) -> Fit:
    """Measures the accuracy of a model on points, and sets its `error` to the 90 % quantile of the relative error."""
    points = best_within_threads(points)
    measured = np.array([p.latency_s for p in points])
    predicted = np.array([model.latency(p.batch, p.threads) for p in points])
    error = measured / predicted - 1.0
    spread = float(np.sum((measured - measured.mean()) ** 2))
    p50, p90, worst = (float(np.quantile(error, q)) for q in (0.5, 0.9, 1.0))
    return Fit(
        model=replace(model, error=max(0.0, round(p90, 4))),
        r2=1.0 - float(np.sum((measured - predicted) ** 2)) / spread if spread > 0 else 1.0,
        mape_percent=float(np.mean(np.abs(predicted / measured - 1.0))) * 100,
        error_p50=p50,
        error_p90=p90,
        error_max=worst,
    )


def best_within_threads(times: Sequence[T], alike: Callable[[T], Hashable] = lambda time: time.batch) -> list[T]:
    """Replaces each time by the least of those alike on as many threads or fewer.

    Args:
        alike: equal for times of the same work.
    """
    return [
        replace(
            time,
            latency_s=min(
                other.latency_s for other in times if alike(other) == alike(time) and other.threads <= time.threads
            ),
        )
        for time in times
    ]


def _design(points: Sequence[Point]) -> _Array:
    return np.array([[p.batch / p.threads, p.batch, 1.0 / p.threads, 1.0] for p in points])


def _identifiable(points: Sequence[Point], share: float) -> _Array:
    """Combinations of (gamma, delta, epsilon, eta), one a column, that these points can tell apart."""
    if len({p.threads for p in points}) > 1:
        columns = np.eye(4)
    else:
        columns = np.array([[share, 1 - share, 0, 0], [0, 0, share, 1 - share]]).T
    if len({p.batch for p in points}) == 1:
        columns = columns[:, : columns.shape[1] // 2]
    return columns


def _clean(value: float, measured: _Array) -> float:
    """Rounds a tiny rest to zero: a bounded solver stops just above it."""
    return 0.0 if value < float(measured.min()) * 1e-4 else float(value)
