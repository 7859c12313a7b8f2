"""The latency model l(b, k): how long a batch of b items takes on k threads.

The formula is that of "Sponge" (EuroMLSys 2024, section 3), with threads for its cores. `sponge_profiles` fits the
model, and the server corrects it online through `scaled`.

Where rows differ in work, by tokens or pixels, `SizeCurve` says how gamma and delta grow with the size of a row. `at`
and `of_batch` then give the model of one size or of one batch, so that whoever knows l(b, k) needs no other formula.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

__all__ = ["LatencyModel", "SizeCurve", "octave_of"]

FLOOR_S: Final = 1e-4
"""The least predicted time. The published fits have a negative epsilon and fall below zero outside their grid."""


def octave_of(size: float) -> int:
    """0 for sizes below 1, 1 from 1 to 2, 2 from 2 to 4, 3 from 4 to 8, ..."""
    return max(0, math.frexp(size)[1])


@dataclass(frozen=True, slots=True)
class SizeCurve:
    """How the time of a row grows with its size (tokens, pixels, any number > 0 that the model declares).

    A row of size s takes gamma*g(s)/k + delta*d(s), with g(s) = p0 + p1*s + p2*s**2 and d(s) likewise, and no negative
    coefficient. The quadratic part is that of attention.

    Attributes:
        parallel: (p0, p1, p2), the factor on gamma.
        serial: (d0, d1, d2), the factor on delta.
        join: what a batch of several sizes costs. `padded`: as if each row had the largest size in it. `ragged`: each
            row its own. `alike`: there are none, only rows of one size share a batch.
        by_octave: factors on the whole time for sizes below 1, from 1 to 2, 2 to 4, 4 to 8, ... where measurements
            differ from the curve; 1 beyond.
    """

    parallel: tuple[float, float, float]
    serial: tuple[float, float, float]
    join: Literal["padded", "ragged", "alike"] = "padded"
    by_octave: tuple[float, ...] = ()

    def octave_factor(self, size: float) -> float:
        """The factor on the whole time of a batch whose rows have this size, or this one on average."""
        octave = octave_of(size)
        return self.by_octave[octave] if octave < len(self.by_octave) else 1.0

    def factors(self, size: float) -> tuple[float, float]:
        """The factors on gamma and delta of a row of this size."""
        p0, p1, p2 = self.parallel
        d0, d1, d2 = self.serial
        return p0 + (p1 + p2 * size) * size, d0 + (d1 + d2 * size) * size


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """l(b, k) = gamma*b/k + delta*b + epsilon/k + eta, all coefficients in seconds.

    Attributes:
        gamma: the parallel part of each item.
        delta: the serial part of each item.
        epsilon: the fixed parallel part.
        eta: the fixed serial part.
        interference: fraction by which each additional running lane slows a lane (0.02 is 2 %).
        error: relative error to allow for, a quantile of measured / predicted - 1.
        max_batch: the largest batch that the model accepts.
        by_threads: factors on the time for 1, 2, ... threads, where measurements differ from the formula; 1 beyond.
        by_cell: makes a table of the formula: for each thread count 1, 2, ... a row of factors, one for each batch size
            1, 2, ...; the last row and column extend beyond. No factor is below 1, and in no row is a larger batch
            faster, because the dispatch rule uses the formula as a lower bound.
        sizes: how gamma and delta grow with the size of a row; None: all rows cost the same.
    """

    gamma: float
    delta: float
    epsilon: float
    eta: float
    interference: float = 0.0
    error: float = 0.0
    max_batch: int = sys.maxsize
    by_threads: tuple[float, ...] = ()
    by_cell: tuple[tuple[float, ...], ...] = ()
    sizes: SizeCurve | None = None

    def at(self, size: float) -> LatencyModel:
        """The model of rows that all have this size. It is this model if sizes make no difference."""
        if self.sizes is None:
            return self
        parallel, serial = self.sizes.factors(size)
        return self._with_factors(parallel, serial, self.sizes.octave_factor(size))

    def of_batch(self, sizes: Sequence[float]) -> LatencyModel:
        """The model whose l(len(sizes), k) is the time of one batch with rows of these sizes, at least one."""
        curve = self.sizes
        if curve is None:
            return self
        if curve.join != "ragged":
            return self.at(max(sizes))
        parallel = serial = 0.0
        for size in sizes:
            one = curve.factors(size)
            parallel += one[0]
            serial += one[1]
        count = len(sizes)
        return self._with_factors(parallel / count, serial / count, curve.octave_factor(sum(sizes) / count))

    def _with_factors(self, parallel: float, serial: float, whole: float) -> LatencyModel:
        return LatencyModel(
            self.gamma * parallel * whole,
            self.delta * serial * whole,
            self.epsilon * whole,
            self.eta * whole,
            self.interference,
            self.error,
            self.max_batch,
            self.by_threads,
            self.by_cell,
        )

    def latency(self, batch: int, threads: int) -> float:
        """Seconds for a batch of `batch` >= 1 items on `threads` >= 1 dedicated threads, with no other lane running."""
        value = self.gamma * batch / threads + self.delta * batch + self.epsilon / threads + self.eta
        if threads <= len(self.by_threads):
            value *= self.by_threads[threads - 1]
        if self.by_cell:
            row = self.by_cell[min(threads, len(self.by_cell)) - 1]
            value *= row[min(batch, len(row)) - 1]
        return value if value > FLOOR_S else FLOOR_S

    def throughput(self, batch: int, threads: int) -> float:
        """Items per second of one lane with full batches: h(b, k) = b / l(b, k)."""
        return batch / self.latency(batch, threads)

    def largest_batch(self, room_s: float, threads: int, limit: int) -> int:
        """The largest batch <= `limit` that takes at most `room_s` seconds on `threads` threads; 0 if there is none."""
        if self.latency(1, threads) > room_s:
            return 0
        if self.by_cell:
            return bisect_right(range(1, limit + 1), room_s, key=lambda batch: self.latency(batch, threads))
        if threads <= len(self.by_threads):
            room_s /= self.by_threads[threads - 1]
        per_item = self.gamma / threads + self.delta
        room_for_items = room_s - self.epsilon / threads - self.eta
        # One item fits. Where items are free, all do, even if rounding has left no room for them.
        if per_item <= 0 or per_item * limit <= room_for_items:
            return limit
        return max(1, int(room_for_items / per_item))

    def least_work(self, most: int, threads: int) -> float:
        """A lower bound of the core-seconds of an item, in batches of up to `most` on up to `threads` threads.

        0 where the formula predicts nothing sensible.
        """
        least = math.inf
        if not self.by_threads and self.delta >= 0 and self.eta >= 0:
            threads = 1  # more threads only cost more
        for used in range(1, threads + 1):
            # k*l(b, k)/b is monotone in b, so the least is at one end. A table only adds to the formula.
            fixed = self.epsilon + self.eta * used
            work = self.gamma + self.delta * used + (fixed / most if fixed > 0 else fixed)
            if used <= len(self.by_threads):
                work *= self.by_threads[used - 1]
            least = min(least, work)
        return max(0.0, least)

    def slowdown(self, others: int) -> float:
        """Factor on the time of a batch with `others` lanes running beside it."""
        return 1.0 + self.interference * others

    def scaled(self, ratio: float) -> LatencyModel:
        """The same model, `ratio` times slower, for online correction and machines of another speed."""
        return replace(
            self, gamma=self.gamma * ratio, delta=self.delta * ratio, epsilon=self.epsilon * ratio, eta=self.eta * ratio
        )
