"""The message of a pod to the fronts before it: what waits, what runs, and how fast it is.

A front replays the pod's own dispatch rule on it, so it holds what that rule needs and nothing else. Times are seconds;
those of the pod's clock are given as what is left of them, because clocks of machines differ.

Fronts and pods may be of different versions for a while. What a front does not know in a report it ignores, and a
latency model that it cannot read counts as none. A number that no pod can have makes the report invalid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from sponge_core.control_api import LatencyCoefficients
from sponge_core.latency import LatencyModel

__all__ = ["MOST_LISTED", "PodLoad", "RunningBatch"]

MOST_LISTED: Final = 128
"""The number of waiting requests that are listed; of those beyond, only the number is given."""

MOST_RUNNING: Final = 1024
MOST_MILLI: Final = 1_000_000
"""More batches at once, or a larger size, than any machine has: the replay takes time for each batch and core."""

_FROM_PODS = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class RunningBatch(BaseModel):
    """A batch that runs."""

    model_config = _FROM_PODS

    requests: int = Field(ge=1)
    threads: int = Field(ge=1)
    left_s: float = Field(ge=0, description="predicted seconds of work left, at full speed")
    slack_s: float = Field(description="seconds until the earliest deadline in it; negative when late")


class PodLoad(BaseModel):
    """The load of one pod at one moment."""

    model_config = _FROM_PODS

    now_s: float = Field(description="the pod's monotonic clock; grows from report to report, and is new after a start")
    accepting: bool = Field(description="ready, and not draining")
    cores_milli: int = Field(ge=1, le=MOST_MILLI, description="CPU limit in force")
    most_milli: int = Field(
        ge=1, le=MOST_MILLI, description="the largest size that a plan may give; admission relies on it"
    )
    batch_cap: int = Field(ge=1)
    lanes: int = Field(ge=1, description="the most batches that run at once")
    slack_s: list[float] = Field(
        default=[],
        max_length=MOST_LISTED,
        description="seconds until each request is due that waits or whose body is on its way; ascending",
    )
    had_s: list[float] = Field(
        default=[],
        max_length=MOST_LISTED,
        description="seconds that each of them had when it arrived, in the same order",
    )
    rate_rps: float = Field(default=0.0, ge=0, description="recent arrivals per second")
    more: int = Field(default=0, ge=0, description="waiting requests beyond those listed, all due later")
    running: list[RunningBatch] = Field(default=[], max_length=MOST_RUNNING)
    latency: LatencyCoefficients | None = Field(
        default=None,
        description="batch times as corrected by recent batches, of rows as large as those that wait or came last; "
        "None if unknown or with several models",
    )
    error: float = Field(default=0.0, ge=0, description="relative error of `latency` that the pod allows for")
    interference: float = Field(default=0.0, ge=0, description="fraction by which each further lane slows a lane")
    slo_s: dict[str, Annotated[FiniteFloat, Field(gt=0)]] = Field(
        default={}, description="SLO by class; that of requests without a class under the empty name"
    )
    received: dict[str, int] = Field(
        default={}, description="by front: the highest number among the requests that it has sent and that arrived"
    )

    @field_validator("latency", mode="wrap")
    @classmethod
    def _readable(cls, value: Any, read: ValidatorFunctionWrapHandler) -> LatencyCoefficients | None:
        try:
            found: LatencyCoefficients | None = read(value)
        except ValidationError:  # of another version
            return None
        return found

    @model_validator(mode="after")
    def _complete(self) -> PodLoad:
        if len(self.had_s) != len(self.slack_s):
            raise ValueError(
                f"had_s has {len(self.had_s)} entries for {len(self.slack_s)} in slack_s: give one for each"
            )
        if self.more and not self.slack_s:
            raise ValueError(f"more is {self.more}, but slack_s is empty: list those that are due first")
        return self

    @property
    def waiting(self) -> int:
        """Number of requests that wait or are on their way."""
        return len(self.slack_s) + self.more

    @property
    def requests(self) -> int:
        """Number of requests in the pod."""
        return self.waiting + sum(batch.requests for batch in self.running)

    def model(self) -> LatencyModel | None:
        """The latency model that the pod decides with; None if it has not told one."""
        if self.latency is None:
            return None
        return replace(self.latency.model(), error=self.error, interference=self.interference)
