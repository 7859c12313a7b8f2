"""Fits l(b, k) to measured points: non-negative, robust, relative.

Pure arithmetic on points. Non-negative, because a negative part makes a model that predicts no time at all outside its
grid; relative, because a millisecond matters more to a batch of one than to a batch of sixteen; robust, because one
point measured beside a noisy neighbour must not bend the rest.

Small models get slower with more threads, which the formula cannot say and no scheduler needs to know: such a point
counts as what the best smaller number of threads takes. The fit then promises no gain, and the threads are not given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares, nnls

from sponge_core.errors import ProfileError
from sponge_core.latency import LatencyModel

__all__ = ["DEFAULT_PARALLEL_SHARE", "Fit", "Point", "best_within_threads", "fit", "judge"]

DEFAULT_PARALLEL_SHARE = 0.8
"""Share of a batch's one-thread time that more threads divide, assumed where only one thread count could be measured.
The published fits have 0.80 (ResNet-18) and 0.85 (YOLOv5s) per item; the lower one promises less."""

_OUTLIER_RELATIVE = 0.05  # beyond 5 % off, a point's pull on the fit grows linearly instead of quadratically

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """A measured latency of one (batch, threads), in seconds, on any one percentile."""

    batch: int
    threads: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A model and how well it meets the points: measured / predicted - 1 at quantiles, R2 and mean absolute % error."""

    model: LatencyModel
    r2: float
    mape_percent: float
    error_p50: float
    error_p90: float
    error_max: float


def fit(points: Sequence[Point], parallel_share: float = DEFAULT_PARALLEL_SHARE) -> Fit:
    """The non-negative model closest to the points in relative terms.

    With a single thread count the parallel and the serial part cannot be told apart: they are split by
    `parallel_share` (Amdahl). With a single batch size all of the time is taken to be per item.

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
    # Rows divided by the measured value: the residual of a point is its relative error.
    rows = _design(points) @ expand / measured[:, None]
    start, _ = nnls(rows, np.ones(len(points)))
    solution = least_squares(
        lambda theta: rows @ theta - 1.0,
        np.maximum(start, 1e-12),
        bounds=(0.0, np.inf),
        x_scale=np.maximum(start, float(measured.min()) * 1e-3),
        loss="soft_l1",
        f_scale=_OUTLIER_RELATIVE,
    )
    gamma, delta, epsilon, eta = (_clean(value, measured) for value in expand @ solution.x)
    return judge(LatencyModel(gamma, delta, epsilon, eta), points)


def judge(model: LatencyModel, points: Sequence[Point]) -> Fit:
    """How well `model`, whatever made it, meets the points; its `error` becomes the 90 % quantile of the error."""
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


def best_within_threads(points: Sequence[Point]) -> list[Point]:
    """Every point with the least time that its batch takes on as many threads or fewer."""
    return [
        Point(p.batch, p.threads, min(q.latency_s for q in points if q.batch == p.batch and q.threads <= p.threads))
        for p in points
    ]


def _design(points: Sequence[Point]) -> _Array:
    return np.array([[p.batch / p.threads, p.batch, 1.0 / p.threads, 1.0] for p in points])


def _identifiable(points: Sequence[Point], share: float) -> _Array:
    """Columns of (gamma, delta, epsilon, eta) that these points can tell apart."""
    if len({p.threads for p in points}) > 1:
        columns = np.eye(4)
    else:
        columns = np.array([[share, 1 - share, 0, 0], [0, 0, share, 1 - share]]).T
    if len({p.batch for p in points}) == 1:
        columns = columns[:, : columns.shape[1] // 2]
    return columns


def _clean(value: float, measured: _Array) -> float:
    """A bounded solver stops a hair above zero; such a rest is zero."""
    return 0.0 if value < float(measured.min()) * 1e-4 else float(value)
