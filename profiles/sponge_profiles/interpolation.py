"""Interpolates measured points into a table, in the form of the core's latency model.

The core's model is a formula with a factor for each (batch, threads), so a table is the factors that lead from the
formula to the measured times. Between points, times are linear in the batch size and in 1/threads, as the formula is.
Outside the measured range the formula continues from the edge. The result is never faster with a larger batch and never
slower with more threads; noise that says otherwise is smoothed away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sponge_core.latency import LatencyModel
from sponge_profiles.fitting import Point

__all__ = ["with_table"]

_BEYOND = 4
"""The table extends to this many times the largest batch and thread count, to be monotone wherever it is used."""

_Array = npt.NDArray[np.float64]


def with_table(formula: LatencyModel, points: Sequence[Point]) -> LatencyModel:
    """The formula with factors that make it match the points, as far as the points are monotone.

    Args:
        formula: a model without negative coefficients. Where the grid has no point it fills in, scaled like the
            neighbours with the same thread count.
        points: at least one; each (batch, threads) at most once.
    """
    batches, threads = sorted({p.batch for p in points}), sorted({p.threads for p in points})
    ratios = np.array([_row(formula, [p for p in points if p.threads == k], batches, k) for k in threads])
    knots = ratios * np.array([[formula.latency(b, k) for b in batches] for k in threads])
    knots = np.minimum.accumulate(np.array([_never_faster(row) for row in knots]), axis=0)
    every_b, every_k = np.arange(1, _BEYOND * batches[-1] + 1), np.arange(1, _BEYOND * threads[-1] + 1)
    plain = np.array([[formula.latency(int(b), int(k)) for b in every_b] for k in every_k])
    inner_b = np.clip(every_b, batches[0], batches[-1]) - 1
    inner_k = np.clip(every_k, threads[0], threads[-1]) - 1
    dense = _between(knots, batches, threads)[np.ix_(inner_k - inner_k[0], inner_b - inner_b[0])]
    seconds = dense / plain[np.ix_(inner_k, inner_b)] * plain
    # This changes nothing inside the measured range; outside, a factor of the edge may exaggerate.
    seconds = np.minimum.accumulate(np.maximum.accumulate(seconds, axis=1), axis=0)
    factors = seconds / plain
    least = float(factors.min())
    return replace(formula.scaled(least), by_cell=tuple(tuple(float(f) for f in row) for row in factors / least))


def _row(formula: LatencyModel, points: Sequence[Point], batches: Sequence[int], threads: int) -> _Array:
    """Measured / formula for each batch size; sizes without a point are interpolated."""
    known = sorted(points, key=lambda p: p.batch)
    ratios = [p.latency_s / formula.latency(p.batch, threads) for p in known]
    return np.interp(np.log(batches), np.log([p.batch for p in known]), ratios)


def _never_faster(row: _Array) -> _Array:
    """The closest row, in relative terms, that does not fall with the batch size (isotonic regression)."""
    from scipy.optimize import isotonic_regression  # here: see fitting

    smooth: _Array = np.exp(isotonic_regression(np.log(row)).x)
    return smooth


def _between(knots: _Array, batches: Sequence[int], threads: Sequence[int]) -> _Array:
    """Times for all batch sizes and thread counts in the measured range."""
    every_b = np.arange(batches[0], batches[-1] + 1)
    every_k = np.arange(threads[0], threads[-1] + 1)
    by_batch = np.array([np.interp(every_b, batches, row) for row in knots])
    falling = -1.0 / np.array(threads)  # ascending, as np.interp requires
    return np.array([np.interp(-1.0 / every_k, falling, column) for column in by_batch.T]).T
