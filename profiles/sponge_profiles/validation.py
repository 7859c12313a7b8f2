"""Formula or table: which one predicts better what it has not seen.

Every point is left out once and predicted from the others. A table meets every point that it was made of, so how well
it meets them says nothing; this does. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sponge_core.latency import LatencyModel
from sponge_profiles.fitting import Point, best_within_threads, fit
from sponge_profiles.interpolation import with_table

__all__ = ["CrossValidation", "Form", "HeldOut", "cross_validate"]

Form = Literal["formula", "table"]

_LEAST_POINTS = 4
_CLEARLY = 0.8
"""A table has as many parameters as points and says nothing beyond them: it has to be this much better to be chosen."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Errors of points that the model had not seen: measured / predicted - 1, in the order of the points."""

    errors: tuple[float, ...]

    def off_percent(self, quantile: float) -> float:
        """A quantile of how far off predictions are, either way."""
        return float(np.quantile(np.abs(self.errors), quantile)) * 100

    @property
    def mean_percent(self) -> float:
        return float(np.mean(np.abs(self.errors))) * 100


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """Both forms on the same points."""

    formula: HeldOut
    table: HeldOut

    @property
    def better(self) -> Form:
        """The table only where it is clearly better, on average and at the 90 % quantile."""
        clearly = self.table.mean_percent < _CLEARLY * self.formula.mean_percent
        return "table" if clearly and self.table.off_percent(0.9) <= self.formula.off_percent(0.9) else "formula"


def cross_validate(points: Sequence[Point]) -> CrossValidation | None:
    """Leaves every point out once; None where there are too few to leave one out."""
    if len(points) < _LEAST_POINTS:
        return None
    points = best_within_threads(points)

    def held_out(make: Callable[[Sequence[Point]], LatencyModel]) -> HeldOut:
        errors = []
        for index, point in enumerate(points):
            model = make([*points[:index], *points[index + 1 :]])
            errors.append(point.latency_s / model.latency(point.batch, point.threads) - 1.0)
        return HeldOut(tuple(errors))

    return CrossValidation(
        formula=held_out(lambda rest: fit(rest).model), table=held_out(lambda rest: with_table(fit(rest).model, rest))
    )
