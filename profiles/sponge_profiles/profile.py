"""The profile of a model: its fitted latency with error, and the points it was fitted on; read, checked and written.

A profile is a YAML file (JSON is YAML too). Latencies in it are milliseconds, as people read them; `latency_model`
gives the core's seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sponge_core.errors import ProfileError
from sponge_core.latency import LatencyModel
from sponge_profiles.fitting import Fit, Point, fit, judge

__all__ = ["Coefficients", "ErrorQuantiles", "GridPoint", "MemoryUse", "Profile", "load_profile", "profile_names"]

_FASTER_TOLERANCE = 0.10  # a larger batch may measure this much faster before it is called impossible: noise


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Coefficients(_Part):
    """Of l(b, k) = gamma*b/k + delta*b + epsilon/k + eta, in milliseconds."""

    gamma: float
    delta: float
    epsilon: float
    eta: float


class ErrorQuantiles(_Part):
    """Measured / predicted - 1 over the grid points, at the profile's percentile."""

    p50: float
    p90: float
    max: float


class GridPoint(_Part):
    """Latency of one (batch, threads), each percentile where it is known, over `n` batches."""

    batch: int = Field(ge=1)
    threads: int = Field(ge=1)
    p50_ms: float | None = Field(default=None, gt=0)
    p95_ms: float | None = Field(default=None, gt=0)
    p99_ms: float | None = Field(default=None, gt=0)
    n: int | None = Field(default=None, ge=1)

    def at(self, percentile: int) -> float | None:
        """Milliseconds at 50, 95 or 99 %; None when not known."""
        return {50: self.p50_ms, 95: self.p95_ms, 99: self.p99_ms}[percentile]


class MemoryUse(_Part):
    """What a server with this model takes, in MiB: base + lanes * (lane + item * batch)."""

    base_mib: float = Field(ge=0)
    lane_mib: float = Field(ge=0)
    item_mib: float = Field(ge=0)


class Profile(_Part):
    """How long the batches of one model take on one kind of machine.

    `origin` is "published" for coefficients taken over as they were printed, negative ones included; "fitted" for our
    fit of somebody's table; "measured" for a fit of points measured by Sponge.
    """

    name: str = Field(min_length=1)
    model: str = Field(min_length=1)
    origin: Literal["published", "fitted", "measured"]
    source: str = Field(min_length=1, description="citation, or how it was measured")
    machine: str = Field(min_length=1)
    percentile: Literal[50, 95, 99]
    max_batch: int = Field(ge=1)
    coefficients_ms: Coefficients
    interference: float = Field(default=0.0, ge=0, description="slow-down of every lane by each further running lane")
    error: ErrorQuantiles
    r2: float | None = None
    mape_percent: float | None = Field(default=None, ge=0)
    memory: MemoryUse | None = None
    points: tuple[GridPoint, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _possible(self) -> Profile:
        negative = [name for name, value in self.coefficients_ms.model_dump().items() if value < 0]
        if negative and self.origin != "published":
            raise ValueError(f"coefficient {negative[0]} is negative: fit again, a part of a latency cannot be below 0")
        seen = {(p.batch, p.threads) for p in self.points}
        if len(seen) != len(self.points):
            raise ValueError("two points have the same batch and threads: keep one of them")
        for point in self.points:
            if point.at(self.percentile) is None:
                raise ValueError(
                    f"point (batch {point.batch}, threads {point.threads}) has no p{self.percentile}_ms, "
                    f"which percentile: {self.percentile} needs"
                )
        _check_monotone(self.points, self.percentile)
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
        interference: float = 0.0,
        max_batch: int | None = None,
    ) -> Profile:
        """Fits the points and wraps the result. Raises ProfileError when they are impossible."""
        return cls._of(
            fit(_points(points, percentile)),
            points,
            name=name,
            model=model,
            origin=origin,
            source=source,
            machine=machine,
            percentile=percentile,
            max_batch=max_batch or max(p.batch for p in points),
            interference=round(interference, 4),
        )

    @classmethod
    def _of(cls, result: Fit, points: Sequence[GridPoint], **fields: object) -> Profile:
        m = result.model
        try:
            return cls.model_validate(
                {
                    **fields,
                    "coefficients_ms": {
                        "gamma": round(m.gamma * 1e3, 4),
                        "delta": round(m.delta * 1e3, 4),
                        "epsilon": round(m.epsilon * 1e3, 4),
                        "eta": round(m.eta * 1e3, 4),
                    },
                    "error": {
                        "p50": round(result.error_p50, 4),
                        "p90": round(result.error_p90, 4),
                        "max": round(result.error_max, 4),
                    },
                    "r2": round(result.r2, 4),
                    "mape_percent": round(result.mape_percent, 2),
                    "points": [p.model_dump() for p in points],
                }
            )
        except ValidationError as invalid:
            raise ProfileError(f"profile '{fields.get('name')}': {_first_error(invalid)}") from None

    def latency_model(self) -> LatencyModel:
        """The core's model, in seconds; its error is the 90 % quantile over the points, at least 0."""
        c = self.coefficients_ms
        return LatencyModel(
            gamma=c.gamma / 1e3,
            delta=c.delta / 1e3,
            epsilon=c.epsilon / 1e3,
            eta=c.eta / 1e3,
            interference=self.interference,
            error=max(0.0, self.error.p90),
        )

    def quality(self) -> Fit:
        """How well the coefficients, whatever made them, meet the points."""
        return judge(self.latency_model(), _points(self.points, self.percentile))

    def to_yaml(self) -> str:
        """The file's text, fields in reading order."""
        data = self.model_dump(mode="json", exclude_none=True)
        points = data.pop("points")
        head: str = yaml.safe_dump(data, sort_keys=False, width=110)
        # One point a line: a table reads better than 150 lines of keys.
        rows = [yaml.safe_dump(p, sort_keys=False, default_flow_style=True, width=1000).strip() for p in points]
        return head + "points:\n" + "".join(f"  - {row}\n" for row in rows)

    def save(self, path: Path) -> None:
        """Writes the file. Raises ProfileError when it cannot be written."""
        try:
            path.write_text(self.to_yaml(), encoding="utf-8")
        except OSError as error:
            raise ProfileError(f"cannot write profile '{path}': {error.strerror}") from None

    @classmethod
    def from_yaml(cls, text: str, label: str) -> Profile:
        """Parses and checks; `label` names the file in errors. Raises ProfileError."""
        try:
            data = yaml.safe_load(text)
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
    """A shipped profile by name, or a file by path.

    Raises:
        ProfileError: it is neither (the message lists the shipped names), or does not hold a valid profile.
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


def _points(points: Sequence[GridPoint], percentile: int) -> list[Point]:
    return [Point(p.batch, p.threads, value / 1e3) for p in points if (value := p.at(percentile)) is not None]


def _check_monotone(points: Sequence[GridPoint], percentile: int) -> None:
    """Raises ValueError when a larger batch was faster than a smaller one by more than noise."""
    for small in points:
        for large in points:
            if large.threads != small.threads or large.batch <= small.batch:
                continue
            fast, slow = large.at(percentile), small.at(percentile)
            if fast is not None and slow is not None and fast < slow * (1 - _FASTER_TOLERANCE):
                raise ValueError(
                    f"l({large.batch}, {large.threads}) is {fast:g} ms but l({small.batch}, {small.threads}) is "
                    f"{slow:g} ms: a larger batch cannot be faster; measure again with --repeat 30"
                )


def _first_error(invalid: ValidationError) -> str:
    """The first problem in one line: where, what."""
    error = invalid.errors(include_url=False)[0]
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        message = "is missing"
    more = invalid.error_count() - 1
    rest = f" (and {more} more)" if more else ""
    return f"{where} {message}{rest}".strip() if where else f"{message}{rest}"
