"""The messages between a server and its operator: the state of the server, the size to apply, letting go, and the
source of a model.

Where somebody applies sizes, the server runs with the smaller of the applied size and its quota. Where nobody does, it
runs with its quota: before the first apply, after a release, and when the operator has been silent for too long.

Times are seconds on the server's monotonic clock; CPU is integer millicores.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from sponge_core.latency import LatencyModel

__all__ = [
    "OUTCOMES",
    "ApplyAck",
    "ApplyRequest",
    "FrontierPoint",
    "LaneState",
    "LatencyCoefficients",
    "LoadFailure",
    "MemoryState",
    "Outcome",
    "ProfileReport",
    "ReleaseAck",
    "ReleaseRequest",
    "SizeRange",
    "SourceReport",
    "SourceRequest",
    "StateSnapshot",
]

Outcome = Literal["in_time", "late", "shed", "expired", "cancelled", "error"]
"""The outcome of a request: answered before or after its deadline; refused at admission; dropped from the queue because
its deadline could no longer be met; its client disconnected; the model or the server failed."""

OUTCOMES: tuple[Outcome, ...] = ("in_time", "late", "shed", "expired", "cancelled", "error")


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Factor = Annotated[FiniteFloat, Field(gt=0)]


class FrontierPoint(_Message):
    """The projection for one size: the expected misses among the requests that can still be in time."""

    cores_milli: int = Field(ge=1)
    batch_cap: int = Field(ge=1)
    misses: float = Field(ge=0)


class LaneState(_Message):
    lane: int
    threads: int = Field(ge=0, description="threads of the running batch; 0 when idle")
    batch: int = Field(ge=0)
    busy_for_s: float = Field(ge=0)


class LatencyCoefficients(_Message):
    """A latency model, as `LatencyModel` defines it, for planners outside the server; times in seconds."""

    gamma_s: FiniteFloat
    delta_s: FiniteFloat
    epsilon_s: FiniteFloat
    eta_s: FiniteFloat
    max_batch: int = Field(ge=1)
    by_threads: tuple[_Factor, ...] = ()
    by_cell: tuple[tuple[_Factor, ...], ...] = ()

    @classmethod
    def of(cls, model: LatencyModel) -> LatencyCoefficients:
        return cls(
            gamma_s=model.gamma,
            delta_s=model.delta,
            epsilon_s=model.epsilon,
            eta_s=model.eta,
            max_batch=model.max_batch,
            by_threads=model.by_threads,
            by_cell=model.by_cell,
        )

    def model(self) -> LatencyModel:
        """The latency model, without interference and error."""
        return LatencyModel(
            self.gamma_s,
            self.delta_s,
            self.epsilon_s,
            self.eta_s,
            max_batch=self.max_batch,
            by_threads=self.by_threads,
            by_cell=self.by_cell,
        )


class MemoryState(_Message):
    """The server's memory, for an operator that changes its limit in place; all in bytes.

    What it needs is `base + lanes * (lane + item * batch cap)`.
    """

    limit: int = Field(ge=1, description="limit in force, read from the server's own cgroup")
    used: int = Field(ge=0, description="in use by the cgroup, caches of files included, as the kubelet counts it")
    base: int = Field(ge=0, description="server, weights, waiting requests, and what stays free")
    lane: int = Field(ge=0, description="each lane")
    item: int = Field(ge=0, description="each row of a lane's largest batch")

    def needs(self, lanes: int, batch_cap: int) -> int:
        """What the server needs with so many lanes, and batches of up to `batch_cap` rows."""
        return self.base + lanes * (self.lane + self.item * batch_cap)


class StateSnapshot(_Message):
    """`GET /control/v1/state`: a consistent view of a server, with its own projection."""

    version: int = Field(ge=0, description="grows with every snapshot; pass it as `since` to wait for a newer one")
    applied_version: int = Field(
        ge=0, description="version of the newest message in force, an apply or a release; 0 if there was none"
    )
    applied_milli: int | None = Field(
        default=None, description="the applied size; None where nobody applies one, so that the quota rules"
    )
    now_s: float
    ready: bool
    draining: bool
    models: list[str] = Field(description="names of the models in the server")
    cores_milli: int = Field(
        ge=1, description="CPU limit in force, read from the server's own cgroup, or the applied one"
    )
    cpu_quota_milli: int | None = Field(description="quota of the cgroup; None when unlimited")
    thread_budget: int = Field(ge=1)
    threads_running: int = Field(ge=0)
    batch_cap: int = Field(ge=1)
    lanes: list[LaneState]
    queue_length: int = Field(ge=0)
    queue_slack_s: list[float] = Field(
        description="quantiles of the slack of queued requests at 0, 25, 50, 75 and 100 %; empty when idle"
    )
    uploads_in_flight: int = Field(ge=0)
    arrival_rate_rps: float = Field(ge=0)
    refused_rps: float = Field(
        default=0.0, ge=0, description="requests a second beside those, refused for the load before them"
    )
    load_cores: float | None = Field(
        default=None,
        ge=0,
        description="cores that all requests take at the most efficient size and batch, with what the server uses "
        "beside the batches; None from servers of earlier versions",
    )
    remaining_slo_s: list[float] = Field(
        description="quantiles of the recent remaining SLO on arrival at 1, 10, 25, 50, 75 and 99 %"
    )
    outcomes: dict[Outcome, int] = Field(description="number of requests since the server started, by outcome")
    latency_p99_s: float | None = Field(description="over the last 10 s, from the client's send time; None when idle")
    throttled_s: float = Field(ge=0, description="throttled time of the cgroup since the start")
    prediction_ratio: float = Field(
        gt=0, description="smoothed ratio of measured to predicted batch time, of the slowest model"
    )
    profile_drifted: bool = Field(
        default=False, description="batch times have differed much from the profile for a while"
    )
    idle_for_s: float = Field(ge=0)
    urgent: bool = Field(description="a miss is projected at the size in force, and a larger size would avoid it")
    frontier: list[FrontierPoint] = Field(description="ascending in cores; empty until a profile is known")
    memory: MemoryState | None = Field(
        default=None, description="None without a limit, or where the kernel does not report memory"
    )
    profile: LatencyCoefficients | None = Field(
        default=None,
        description="batch times of the one model, corrected by recent batches; None if unknown or with several models",
    )


class ProfileReport(_Message):
    """`GET /control/v1/profile`: where the server's latency profile comes from; also answered while it starts."""

    origin: Literal["unknown", "measuring", "measured", "stored", "given"] = Field(
        description="not known yet; being measured; measured by this server; kept from an earlier start; named or given"
    )
    cpu_type: str = Field(description="of this machine, in letters, digits and '-'; profiles of one type are alike")
    wants_milli: int | None = Field(
        default=None, description="while measuring: the CPU limit at which the server would measure next"
    )
    profile: str | None = Field(default=None, description="the file's text, once it is measured or was kept")
    source: str | None = Field(default=None, description="source of the model that it is of; None: an earlier server")


class LoadFailure(_Message):
    """A source that could not be loaded beside the one that serves."""

    source: str
    no_room: bool = Field(description="it does not fit into the memory limit beside what is loaded")
    message: str


class SourceRequest(_Message):
    """`POST /control/v1/models/MODEL/source`: the source to serve; answered before it is loaded."""

    source: str = Field(min_length=1)


class SourceReport(_Message):
    """`GET /control/v1/models/MODEL/source`: what is loaded of a model, and what comes and goes."""

    serving: str | None = Field(description="the source that answers requests; None while the model is unloaded")
    loading: str | None = Field(default=None, description="the source that is being loaded beside it")
    ending: bool = Field(default=False, description="a former version still holds memory")
    failed: LoadFailure | None = Field(
        default=None, description="the source that could not be loaded last; None once another one serves"
    )


class SizeRange(_Message):
    """The allowed sizes: `min_milli` plus whole steps, up to `max_milli`."""

    min_milli: int = Field(ge=1)
    max_milli: int = Field(ge=1)
    step_milli: int = Field(ge=1)

    def at_most(self, milli: int) -> int:
        """The largest of the sizes that is not above `milli`; `min_milli` if all are."""
        bounded = max(self.min_milli, min(self.max_milli, milli))
        return self.min_milli + (bounded - self.min_milli) // self.step_milli * self.step_milli

    def at_least(self, milli: int) -> int:
        """The smallest of the sizes that is not below `milli`; the largest one if all are."""
        steps = max(0, -(-(milli - self.min_milli) // self.step_milli))
        return self.at_most(self.min_milli + steps * self.step_milli)


class ApplyRequest(_Message):
    """`POST /control/v1/apply`: the size and batch cap from now on."""

    version: int = Field(ge=1, description="must be greater than the version in force, else 409")
    cores_milli: int = Field(ge=1)
    batch_cap: int = Field(ge=1)
    sizes: SizeRange | None = Field(
        default=None,
        description="sizes for projection and admission from now on, after a new range or ceiling; None: as before",
    )

    fallback_after_s: float | None = Field(
        default=None,
        gt=0,
        description="after so long without a poll or message, the server follows its quota; None: never",
    )


class ReleaseRequest(_Message):
    """`POST /control/v1/release`: nobody applies a size from now on, so the quota rules."""

    version: int = Field(ge=1, description="must be greater than the version in force, else 409")


class ReleaseAck(_Message):
    version: int
    cores_milli: int = Field(description="the size in force from now on: the quota")
    now_s: float


class ApplyAck(_Message):
    version: int
    cores_milli: int
    thread_budget: int
    batch_cap: int
    now_s: float
    waited_s: float = Field(description="time until the running batches fit the smaller budget; 0 when growing")
