"""Compares the formula and the table on unseen points, by leave-one-out cross-validation.

A table matches every point that it was made of, so its accuracy on them says nothing. Each point is therefore predicted
from the others.
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
"""A table is chosen only if its error is below this fraction of the formula's: it has a parameter for each point and
says nothing beyond them."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Errors on unseen points: measured / predicted - 1, in the order of the points."""

    errors: tuple[float, ...]

    def off_percent(self, quantile: float) -> float:
        """A quantile (0 to 1) of the absolute error, in percent."""
        return float(np.quantile(np.abs(self.errors), quantile)) * 100

    @property
    def mean_percent(self) -> float:
        """The mean absolute error, in percent."""
        return float(np.mean(np.abs(self.errors))) * 100


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """The errors of both forms on the same points."""

    formula: HeldOut
    table: HeldOut

    @property
    def better(self) -> Form:
        """The table if it is clearly better on average and no worse at the 90 % quantile; else the formula."""
        clearly = self.table.mean_percent < _CLEARLY * self.formula.mean_percent
        return "table" if clearly and self.table.off_percent(0.9) <= self.formula.off_percent(0.9) else "formula"


def cross_validate(points: Sequence[Point]) -> CrossValidation | None:
    """Predicts each point from the others; None if there are too few points."""
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
