"""The profile of a model: its fitted latency with error, and the points of the fit. Reads, checks and writes the file.

A profile is a YAML file (JSON is YAML too). Its latencies are in milliseconds; `latency_model` returns the core's model
in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import Field, ValidationError, model_validator

from sponge_core.cpu_sharing import speed_of, stall_of, thread_budget
from sponge_core.errors import ProfileError
from sponge_core.latency import LatencyModel, SizeCurve
from sponge_profiles.fitting import Fit, Point, fit, judge
from sponge_profiles.interpolation import with_table
from sponge_profiles.points import (
    GridPoint,
    LanePoint,
    LatencyPercentiles,
    Part,
    QuotaPoint,
    SizedPoint,
    SizeTerms,
    contradictions,
)
from sponge_profiles.size_fit import Join, SizedTime, fit_sizes
from sponge_profiles.validation import CrossValidation, Form, HeldOut, cross_validate

__all__ = [
    "Coefficients",
    "ErrorQuantiles",
    "HeldOutError",
    "MemoryUse",
    "Profile",
    "Validation",
    "load_profile",
    "profile_names",
]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it: it reads a measured profile ten times faster."""


class Coefficients(Part):
    """Coefficients of l(b, k) = gamma*b/k + delta*b + epsilon/k + eta, in milliseconds."""

    gamma: float
    delta: float
    epsilon: float
    eta: float


class ErrorQuantiles(Part):
    """Measured / predicted - 1 over the grid points, at the profile's percentile."""

    p50: float
    p90: float
    max: float


class HeldOutError(Part):
    """Absolute relative errors of predictions for points that the model had not seen."""

    mean_percent: float = Field(ge=0)
    p90_percent: float = Field(ge=0)
    max_percent: float = Field(ge=0)


class Validation(Part):
    """Leave-one-out errors of both forms: each point is predicted from the others."""

    formula: HeldOutError
    table: HeldOutError


class MemoryUse(Part):
    """Memory of a server with this model, in MiB: base + lanes * (lane + item * batch)."""

    base_mib: float = Field(ge=0)
    lane_mib: float = Field(ge=0)
    item_mib: float = Field(ge=0)


class Profile(Part):
    """How long the batches of one model take on one kind of machine.

    `origin` is "published" for coefficients as they were printed, negative ones included; "fitted" for a fit of
    published points; "measured" for a fit of points that Sponge measured.

    `form` says what predicts: the formula with `coefficients_ms`, or a table of the points. `error` is that form's: of
    the formula over the points, of the table over points left out of it. `r2` and `mape_percent` are the formula's.

    Where rows differ in size, `points` and `coefficients_ms` are for the reference size of `sizes`, and `error` is that
    over the points of all sizes.
    """

    name: str = Field(min_length=1)
    model: str = Field(min_length=1)
    origin: Literal["published", "fitted", "measured"]
    source: str = Field(min_length=1, description="citation, or how it was measured")
    machine: str = Field(min_length=1)
    percentile: Literal[50, 95, 99]
    max_batch: int = Field(ge=1)
    form: Form = "formula"
    coefficients_ms: Coefficients
    interference: float = Field(
        default=0.0, ge=0, description="fraction by which each additional running lane slows a lane"
    )
    error: ErrorQuantiles
    r2: float | None = None
    mape_percent: float | None = Field(default=None, ge=0)
    validation: Validation | None = None
    memory: MemoryUse | None = None
    sizes: SizeTerms | None = None
    points: tuple[GridPoint, ...] = Field(min_length=1)
    sized_points: tuple[SizedPoint, ...] = ()
    quotas: tuple[QuotaPoint, ...] = ()
    lanes: tuple[LanePoint, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> Profile:
        negative = [name for name, value in self.coefficients_ms.model_dump().items() if value < 0]
        if negative and self.origin != "published":
            raise ValueError(f"coefficient {negative[0]} is negative: fit again, no part of a latency can be below 0")
        seen = {(p.batch, p.threads) for p in self.points}
        if len(seen) != len(self.points):
            raise ValueError("two points have the same batch and threads: keep one of them")
        for point in self.points:
            if point.at(self.percentile) is None:
                raise ValueError(
                    f"point (batch {point.batch}, threads {point.threads}) has no p{self.percentile}_ms, "
                    f"which percentile: {self.percentile} needs"
                )
        for small, large in contradictions(self.points, self.percentile):
            raise ValueError(
                f"l({large.batch}, {large.threads}) is {large.at(self.percentile):g} ms but l({small.batch}, "
                f"{small.threads}) is {small.at(self.percentile):g} ms: a larger batch cannot be faster; measure again "
                "with --repeat 30"
            )
        if negative and self.form == "table":
            raise ValueError("form: table needs coefficients that are not negative; fit the points again")
        return self

    @classmethod
    def from_points(
        cls,
        points: Sequence[GridPoint],
        *,
        name: str,
        model: str,
        source: str,
        machine: str,
        percentile: Literal[50, 95, 99],
        origin: Literal["fitted", "measured"] = "measured",
        form: Form | Literal["auto"] = "formula",
        cross_validated: bool = False,
        interference: float = 0.0,
        max_batch: int | None = None,
    ) -> Profile:
        """Fits points into a profile.

        Args:
            percentile: the percentile of the points to fit.
            form: `auto` takes the form that predicts unseen points better.
            cross_validated: include the errors of both forms on unseen points, whichever form is used.
            max_batch: the largest batch; None: that of the points.

        Raises:
            ProfileError: the points are impossible.
        """
        seconds = _points(points, percentile)
        result = fit(seconds)
        checked = cross_validate(seconds) if cross_validated or form != "formula" else None
        if form == "auto":
            form = "formula" if checked is None else checked.better
        error = ErrorQuantiles(p50=result.error_p50, p90=result.error_p90, max=result.error_max)
        if form == "table" and checked is not None:
            error = _quantiles(checked.table)
        m = result.model
        try:
            return cls.model_validate(
                {
                    "name": name,
                    "model": model,
                    "origin": origin,
                    "source": source,
                    "machine": machine,
                    "percentile": percentile,
                    "max_batch": max_batch or max(p.batch for p in points),
                    "form": form,
                    "coefficients_ms": {
                        "gamma": round(m.gamma * 1e3, 4),
                        "delta": round(m.delta * 1e3, 4),
                        "epsilon": round(m.epsilon * 1e3, 4),
                        "eta": round(m.eta * 1e3, 4),
                    },
                    "interference": round(interference, 4),
                    "error": {name: round(value, 4) for name, value in error.model_dump().items()},
                    "r2": round(result.r2, 4),
                    "mape_percent": round(result.mape_percent, 2),
                    "validation": None if checked is None else _validation(checked),
                    "points": [p.model_dump() for p in points],
                }
            )
        except ValidationError as invalid:
            raise ProfileError(f"profile '{name}': {_first_error(invalid)}") from None

    def with_sizes(self, points: Sequence[SizedPoint], reference: float, join: Join) -> Profile:
        """The same profile fitted anew to the medians of points of several sizes.

        Medians, because the server corrects the level by what batches take on average, and learns the spread.

        Args:
            points: of at least two sizes besides the reference. The profile's own points stand for the reference where
                these have none of it.
            reference: the size of the rows of the profile's own points.
            join: what a batch of several sizes costs.

        Raises:
            ProfileError: the points are impossible, or of too few sizes.
        """
        times = [SizedTime(p.batch, p.threads, p.p50_ms / 1e3, p.size) for p in points if p.p50_ms is not None]
        if all(time.size != reference for time in times):
            times += [SizedTime(p.batch, p.threads, p.latency_s, reference) for p in _points(self.points, 50)]
        found = fit_sizes(times, reference, join)
        model, unseen = found.model, found.unseen
        curve = model.sizes or SizeCurve((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), join)
        p50, p90, most = (round(float(q), 4) for q in np.quantile(found.errors, (0.5, 0.9, 1.0)))
        p80 = round(float(np.quantile(np.abs(unseen), 0.8)) * 100, 2) if unseen else None
        changes = {
            "form": "formula",
            "coefficients_ms": {
                name: round(getattr(model, name) * 1e3, 4) for name in ("gamma", "delta", "epsilon", "eta")
            },
            "error": {"p50": p50, "p90": p90, "max": most},
            # Those of the formula for one size do not describe this one.
            "r2": None,
            "mape_percent": round(float(np.mean(np.abs(found.errors))) * 100, 2),
            "validation": None,
            "sizes": {
                "reference": reference,
                "join": join,
                "parallel": curve.parallel,
                "serial": curve.serial,
                "unseen_p80_percent": p80,
            },
            "sized_points": [p.model_dump() for p in points],
        }
        try:
            return Profile.model_validate(self.model_dump() | changes)
        except ValidationError as invalid:
            raise ProfileError(f"profile '{self.name}': {_first_error(invalid)}") from None

    @property
    def fitted_percentile(self) -> Literal[50, 95, 99]:
        """The percentile of the times that the coefficients predict: with sizes, the median."""
        return self.percentile if self.sizes is None else 50

    def latency_model(self) -> LatencyModel:
        """The core's model, in seconds; its error is the 90 % quantile, at least 0."""
        formula = self._formula()
        return with_table(formula, _points(self.points, self.percentile)) if self.form == "table" else formula

    def _formula(self) -> LatencyModel:
        c = self.coefficients_ms
        return LatencyModel(
            gamma=c.gamma / 1e3,
            delta=c.delta / 1e3,
            epsilon=c.epsilon / 1e3,
            eta=c.eta / 1e3,
            interference=self.interference,
            error=max(0.0, self.error.p90),
            sizes=None if self.sizes is None else SizeCurve(self.sizes.parallel, self.sizes.serial, self.sizes.join),
        )

    def allowed_ms(self, cores: float, batch: int) -> float:
        """The time in ms that the dispatch rule allows for a batch alone under a limit of `cores`.

        It includes throttling and the model's error.
        """
        model, threads = self.latency_model(), thread_budget(cores)
        speed = speed_of(cores, threads)
        return (model.latency(batch, threads) * (1 + model.error) / speed + stall_of(speed)) * 1e3

    def quality(self) -> Fit:
        """The accuracy of the formula on the points, however its coefficients were made."""
        return judge(self._formula(), _points(self.points, self.percentile))

    def to_yaml(self) -> str:
        """The file's text, fields in reading order."""
        data = self.model_dump(mode="json", exclude_none=True)
        tables = {field: data.pop(field) for field in ("points", "sized_points", "quotas", "lanes")}
        text: str = yaml.safe_dump(data, sort_keys=False, width=110)
        for field, points in tables.items():
            if points:  # one line each, because a table is easier to read than 150 lines of keys
                text += f"{field}:\n" + "".join(f"  - {_one_line(point)}\n" for point in points)
        return text

    def save(self, path: Path) -> None:
        """Writes the file. Raises ProfileError if it cannot be written."""
        try:
            path.write_text(self.to_yaml(), encoding="utf-8")
        except OSError as error:
            raise ProfileError(f"cannot write profile '{path}': {error.strerror}") from None

    @classmethod
    def from_yaml(cls, text: str, label: str) -> Profile:
        """Parses and checks a profile; `label` names the file in errors. Raises ProfileError."""
        try:
            data = yaml.load(text, Loader=_LOADER)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" in line {mark.line + 1}" if mark is not None else ""
            raise ProfileError(
                f"profile '{label}' is not valid YAML{where}: {getattr(error, 'problem', error)}"
            ) from None
        if not isinstance(data, dict):
            raise ProfileError(f"profile '{label}' must be a YAML mapping; `sponge profile` writes one")
        try:
            return cls.model_validate(data)
        except ValidationError as invalid:
            raise ProfileError(f"profile '{label}': {_first_error(invalid)}") from None


def profile_names() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _data().iterdir() if entry.name.endswith(".yaml"))


def load_profile(name_or_path: str) -> Profile:
    """Loads a shipped profile by name, or a file by path.

    Raises:
        ProfileError: there is no such profile (the message lists the shipped names), or it is not valid.
    """
    if name_or_path in profile_names():
        text = _data().joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
        return Profile.from_yaml(text, f"{name_or_path}.yaml")
    path = Path(name_or_path)
    try:
        return Profile.from_yaml(path.read_text(encoding="utf-8"), path.name)
    except UnicodeDecodeError:
        raise ProfileError(f"profile '{name_or_path}' is not a text file; `sponge profile` writes one") from None
    except OSError as error:
        names = ", ".join(profile_names())
        raise ProfileError(
            f"no profile '{name_or_path}' ({error.strerror}): give a file, one of {names}, "
            "or measure one with `sponge profile`"
        ) from None


def _data() -> Traversable:
    return resources.files("sponge_profiles") / "data"


def _one_line(point: dict[str, object]) -> str:
    """One point as a line of YAML: what was measured, then the times."""
    ordered = dict(sorted(point.items(), key=lambda item: item[0] in LatencyPercentiles.model_fields))
    text: str = yaml.safe_dump(ordered, sort_keys=False, default_flow_style=True, width=1000)
    return text.strip()


def _quantiles(held_out: HeldOut) -> ErrorQuantiles:
    p50, p90, most = (float(q) for q in np.quantile(held_out.errors, (0.5, 0.9, 1.0)))
    return ErrorQuantiles(p50=p50, p90=p90, max=most)


def _validation(checked: CrossValidation) -> Validation:
    formula, table = (
        HeldOutError(
            mean_percent=round(held_out.mean_percent, 2),
            p90_percent=round(held_out.off_percent(0.9), 2),
            max_percent=round(held_out.off_percent(1.0), 2),
        )
        for held_out in (checked.formula, checked.table)
    )
    return Validation(formula=formula, table=table)


def _points(points: Sequence[GridPoint], percentile: int) -> list[Point]:
    return [Point(p.batch, p.threads, value / 1e3) for p in points if (value := p.at(percentile)) is not None]


def _first_error(invalid: ValidationError) -> str:
    """The first problem in one line: where and what."""
    error = invalid.errors(include_url=False)[0]
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        message = "is missing"
    more = invalid.error_count() - 1
    rest = f" (and {more} more)" if more else ""
    return f"{where} {message}{rest}".strip() if where else f"{message}{rest}"
