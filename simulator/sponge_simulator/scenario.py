"""Scenarios: a service, its requests and their uplink, and its cluster, read from YAML and checked.

The shipped scenarios are in `scenarios/`. The caller loads the arrivals and the uplink that a scenario names.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sponge_core.edf_queue import Request
from sponge_core.errors import SpongeError
from sponge_core.latency import LatencyModel
from sponge_profiles.profile import ErrorQuantiles
from sponge_simulator.scaling.interface import Service
from sponge_workload.bandwidth import BandwidthTrace

__all__ = [
    "Cores",
    "RowSizes",
    "Scenario",
    "ScenarioError",
    "SloClass",
    "load_scenario",
    "scenario_names",
    "service_ratios",
]


class ScenarioError(SpongeError):
    """A scenario that is missing, malformed or impossible."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SloClass(_Part):
    """Requests with the same SLO and payload; `share` is their fraction of all requests."""

    name: str = "default"
    share: float = Field(default=1.0, gt=0, le=1)
    slo_ms: float = Field(gt=0, le=3_600_000)
    payload_bytes: int = Field(ge=0)


class RowSizes(_Part):
    """The sizes of requests, in the unit of the profile's: whole, lognormal, and cut to the range."""

    mu: float = Field(description="mean of the logarithm")
    sigma: float = Field(ge=0, description="standard deviation of the logarithm")
    least: int = Field(ge=1)
    most: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> RowSizes:
        if self.least > self.most:
            raise ValueError(f"least {self.least} is above most {self.most}: swap them")
        return self

    def draw(self, random: random.Random) -> float:
        """The size of one request."""
        return float(min(self.most, max(self.least, round(random.lognormvariate(self.mu, self.sigma)))))


class Cores(_Part):
    """The sizes of one replica; `idle` is its size after `idle_after_s` without requests, None: unchanged."""

    min: float = Field(default=1.0, gt=0)
    max: float = Field(default=16.0, gt=0, le=1024)
    step: float = Field(default=1.0, gt=0)
    idle: float | None = Field(default=None, gt=0)
    idle_after_s: float = Field(default=60.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Cores:
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: swap them")
        steps = (self.max - self.min) / self.step
        if abs(steps - round(steps)) > 1e-9:
            raise ValueError(f"step {self.step:g} does not divide the range from {self.min:g} to {self.max:g}")
        if self.idle is not None and self.idle > self.min:
            raise ValueError(f"idle {self.idle:g} is above min {self.min:g}: lower it")
        return self


class Step(_Part):
    """From `from_s` on, the rate is `times` the scenario's."""

    from_s: float = Field(ge=0)
    times: float = Field(gt=0, le=1000)


class Scenario(_Part):
    """An experiment without its policies and its seed.

    Attributes:
        profile: a shipped profile or a file.
        rate_rps: requests per second; policies that do not measure a rate are given this one.
        steps: changes of the rate, ascending in time; before the first step it is `rate_rps`.
        arrivals: `poisson`, `burst` (all of a second at once), `visits` (ten seconds each, after minutes of silence),
            `twitter`, `azure-code`, `azure-conv` or a file.
        sizes: of requests, where the profile has sizes of rows; None: all have the profile's reference.
        bandwidth: `none`, `synthetic`, `4g` (the recorded trace if it is there, else synthetic) or a file.
        cold_start_s: seconds from the request for a replica until it serves.
        resize_ms: the time from the request for a size until it is in force: quantiles at 0, 50, 90, 99 and 100 %.
        node_cores: the cores that all replicas share; None: unlimited.
    """

    name: str = Field(min_length=1)
    about: str = ""
    profile: str
    rate_rps: float = Field(gt=0)
    steps: tuple[Step, ...] = ()
    duration_s: float = Field(default=600.0, gt=0)
    arrivals: str = "poisson"
    bandwidth: str = "4g"
    classes: tuple[SloClass, ...] = Field(min_length=1)
    sizes: RowSizes | None = None
    cores: Cores = Cores()
    max_batch: int = Field(default=8, ge=1, le=1024)
    max_replicas: int = Field(default=16, ge=1)
    cold_start_s: float = Field(default=6.0, ge=0)
    resize_ms: tuple[float, float, float, float, float] = (22.0, 37.0, 47.0, 70.0, 82.0)
    node_cores: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _adds_up(self) -> Scenario:
        shares = sum(each.share for each in self.classes)
        if abs(shares - 1) > 1e-6:
            raise ValueError(f"the shares of the classes add up to {shares:g}: make them 1")
        names = [each.name for each in self.classes]
        if len(set(names)) != len(names):
            raise ValueError(f"two classes have one name ({', '.join(names)}): rename one")
        if [step.from_s for step in self.steps] != sorted({step.from_s for step in self.steps}):
            raise ValueError("steps must be ascending in from_s: sort them, one for each time")
        if list(self.resize_ms) != sorted(self.resize_ms) or self.resize_ms[0] < 0:
            raise ValueError("resize_ms must be five ascending quantiles, 0 or more")
        return self

    @property
    def peak_rps(self) -> float:
        """The highest rate at any time. Draw arrivals at this rate; `requests` thins them out."""
        return self.rate_rps * max(1.0, *(step.times for step in self.steps)) if self.steps else self.rate_rps

    def service(self, model: LatencyModel) -> Service:
        """The facts that policies are given. Raises ScenarioError if the requests have sizes and the model has none."""
        if self.sizes is not None and model.sizes is None:
            raise ScenarioError(
                f"scenario '{self.name}': requests have sizes, and profile '{self.profile}' has none: measure one of a "
                "model that declares them with `sponge profile`, or leave sizes out"
            )
        return Service(
            model if self.sizes is not None else replace(model, sizes=None),
            max(each.slo_ms for each in self.classes) / 1000,
            self.rate_rps,
            self.max_batch,
            self.cores.min,
            self.cores.max,
            self.cores.step,
            self.max_replicas,
            self.cold_start_s,
            self.resize_ms[1] / 1000,
            self.cores.idle,
            self.cores.idle_after_s,
        )

    def requests(self, sent_at: Sequence[float], uplink: BandwidthTrace | None, seed: int) -> list[Request]:
        """The requests in order of arrival.

        As in the Sponge paper, each arrives payload/bandwidth after it was sent. Its deadline counts from when it was
        sent, so the network uses up part of the SLO.

        Args:
            sent_at: times at `peak_rps`, in seconds; where the rate is lower, only a fraction of them is sent.
            uplink: None: requests arrive at once.
            seed: of the classes, the sizes and the thinning.
        """
        draw, draw_size = random.Random(seed), random.Random(f"sizes {seed}")
        sent_at = self._thinned(sent_at, seed)
        shares = [each.share for each in self.classes]
        rows = []
        for at in sent_at:
            kind = self.classes[0] if len(shares) == 1 else draw.choices(self.classes, shares)[0]
            network_s = kind.payload_bytes / uplink.bandwidth_at(at) if uplink else 0.0
            size = 1.0 if self.sizes is None else self.sizes.draw(draw_size)
            rows.append((at + network_s, at, at + kind.slo_ms / 1000, kind.name, size))
        rows.sort()
        return [
            Request(i, arrival, deadline, at, name, size=size)
            for i, (arrival, at, deadline, name, size) in enumerate(rows)
        ]

    def _thinned(self, sent_at: Sequence[float], seed: int) -> Sequence[float]:
        if not self.steps:
            return sent_at
        draw, since = random.Random(seed), [step.from_s for step in self.steps]
        share = [times * self.rate_rps / self.peak_rps for times in (1.0, *(step.times for step in self.steps))]
        return [at for at in sent_at if draw.random() < share[bisect_right(since, at)]]

    def resizes(self, seed: int) -> Callable[[], float]:
        """A function that draws the duration of a resize, in seconds."""
        return _from_quantiles((0.0, 0.5, 0.9, 0.99, 1.0), [ms / 1000 for ms in self.resize_ms], seed)


def service_ratios(error: ErrorQuantiles, seed: int) -> Callable[[], float]:
    """A function that draws true / predicted batch times from a profile's error.

    Its lower end is as far below the median as the 90 % quantile is above it.
    """
    low = max(-0.9, 2 * error.p50 - error.p90)
    return _from_quantiles((0.0, 0.5, 0.9, 1.0), [1 + e for e in (low, error.p50, error.p90, error.max)], seed)


def _from_quantiles(at: Sequence[float], values: Sequence[float], seed: int) -> Callable[[], float]:
    """Draws from the distribution whose quantile function is piecewise linear through these points."""
    draw = random.Random(seed)

    def one() -> float:
        u = draw.random()
        upper = bisect_left(at, u, 1)
        weight = (u - at[upper - 1]) / (at[upper] - at[upper - 1])
        return values[upper - 1] + weight * (values[upper] - values[upper - 1])

    return one


def scenario_names() -> list[str]:
    """The names of the shipped scenarios."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def load_scenario(source: str) -> Scenario:
    """Loads a shipped scenario by name, or a file. Raises ScenarioError, which says what is wrong and where."""
    try:
        if source in scenario_names():
            text = (_folder() / f"{source}.yaml").read_text(encoding="utf-8")
        else:
            text = Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ScenarioError(
            f"scenario '{source}': {reason}; give a file or one of {', '.join(scenario_names())}"
        ) from None
    try:
        return Scenario.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ScenarioError(f"scenario '{source}' is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ScenarioError(f"scenario '{source}': {where + ': ' if where else ''}{message}") from None


def _folder() -> Traversable:
    return resources.files("sponge_simulator") / "scenarios"
