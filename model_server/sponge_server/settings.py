"""What a server is told once, at its start: one field here is one option of `sponge serve`, everywhere.

A new setting is one entry in `ServerSettings`: its name gives the flag (`--drain-s`), the environment variable
(`SPONGE_SERVE_DRAIN_S`) and the key in a configuration file (`drain-s`); `--help`, `--print-config` and every error
message come from the same entry. A name that ends in `_s`, `_ms` or `_bytes` says its unit.

Resolved by the command, passed down; nobody below reads the environment. Knows nothing of how the values are used;
refuses combinations that cannot work, with the settings to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from sponge_core.cpu_sharing import thread_budget
from sponge_core.dispatch.registry import DEFAULT, PolicyName
from sponge_core.errors import SpongeError
from sponge_core.quantities import milli_of, parse_cores
from sponge_server.observability.logs import Format

__all__ = ["ContradictionError", "ModelSettings", "ServerSettings", "sizes_milli"]

LONGEST_SLO_MS = 3_600_000

EVERY = "*"
"""Stands for every model that has no value of its own."""


class ContradictionError(SpongeError):
    """Settings that are fine one by one, but not together. `text` holds `{field}` for each of `values`."""

    def __init__(self, text: str, **values: object) -> None:
        super().__init__(text.format_map({name: f"{name.replace('_', '-')} {value}" for name, value in values.items()}))
        self.text = text
        self.values = values


def _cores(value: object) -> object:
    """CPU as Kubernetes writes it, `500m` or `0.5`; gives cores."""
    try:
        cores = parse_cores(str(value))
    except SpongeError:
        cores = 0.0
    if cores <= 0:
        raise ValueError("write a CPU size above 0, as 0.5 or 500m")
    return cores


def _bytes(value: object) -> object:
    """A number of bytes, or of `Ki`, `Mi`, `Gi` as Kubernetes writes them."""
    text = str(value)
    factor = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}.get(text[-2:])
    digits = text if factor is None else text[:-2]
    if not digits.isdecimal():
        raise ValueError("write a size in bytes, as 65536 or 64Mi")
    return int(digits) * (factor or 1)


def _named(form: str) -> BeforeValidator:
    """Words such as `gold=300`, in a list or with spaces between, become a mapping; a file may hold one itself."""

    def check(value: object) -> object:
        words = value.split() if isinstance(value, str) else value
        if not isinstance(words, list | tuple):
            return value
        pairs: dict[str, str] = {}
        for word in words:
            name, separator, text = str(word).partition("=")
            if not (name and separator and text):
                raise ValueError(f"{word!r} is not of the form {form}")
            if name in pairs:
                raise ValueError(f"{name!r} is there twice: give each name once")
            pairs[name] = text
        return pairs

    return BeforeValidator(check)


def _by_model(value: object) -> object:
    """`VALUE` for every model and `NAME=VALUE` for one, in a list or with spaces between, become a mapping by name.

    The last one counts, as for an option that takes one value.
    """
    if isinstance(value, Mapping):
        return value
    pairs: dict[str, object] = {}
    for word in value.split() if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]:
        name, separator, text = str(word).partition("=")
        if separator and "/" not in name:  # a path may hold the sign too, and no model's name a slash
            pairs[name] = text
        else:
            pairs[EVERY] = word
    return pairs


def _shortly(values: dict[str, Any]) -> object:
    return values[EVERY] if values.keys() == {EVERY} else values


Cores = Annotated[float, BeforeValidator(_cores)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, le=LONGEST_SLO_MS, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65535)]
ModelName = Annotated[str, Field(pattern=r"^[^/\s]+$")]
BY_MODEL = (NoDecode, BeforeValidator(_by_model), PlainSerializer(_shortly))
Level = Literal["debug", "info", "warning", "error"]


def setting(group: str, text: str, default: Any = ..., *, form: str = "", shown: str = "", **more: Any) -> Any:
    """One setting: where `--help` lists it and what it says.

    Args:
        group: heading in `--help` and in the documentation.
        default: none makes it required.
        form: how a value looks, where its type does not say it.
        shown: what to show as the default where that depends on other settings.
        more: what pydantic's Field takes.
    """
    extra: JsonDict = {"group": group, "form": form, "shown": shown}
    return Field(
        **({} if "default_factory" in more else {"default": default}), description=text, json_schema_extra=extra, **more
    )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What holds for one model: its name and source, its largest batch, its profile, and its default objective."""

    name: str
    source: str
    max_batch: int
    profile: str
    slo_s: float


class ServerSettings(BaseSettings):
    """All options of `sponge serve`. CPU in cores (fractions allowed), sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="SPONGE_SERVE_", env_ignore_empty=True, extra="forbid", frozen=True, protected_namespaces=()
    )

    model: Annotated[dict[ModelName, str], NoDecode, _named("NAME=SOURCE")] = setting(
        "Model", "Name in the URLs, and where the model comes from.", form="NAME=SOURCE", min_length=1
    )
    dtype: Literal["fp32", "bf16", "auto"] = setting(
        "Model",
        "What to compute in: bf16 needs a CPU that does, and the same answers; auto falls back to fp32.",
        "fp32",
    )
    accept_accuracy: bool = setting("Model", "Take bf16 even when its answers differ by more than allowed.", False)
    max_batch: Annotated[dict[str, Annotated[int, Field(ge=1)]], *BY_MODEL] = setting(
        "Model",
        "Largest batch, and the batch cap until the operator says otherwise.",
        {EVERY: 8},
        form="[NAME=]NUMBER",
        shown="8",
    )
    profile: Annotated[dict[str, str], *BY_MODEL] = setting(
        "Model",
        "auto measures at start; or a shipped profile, or a file.",
        {EVERY: "auto"},
        form="[NAME=]auto|PROFILE|FILE",
        shown="auto",
    )
    profile_s: Seconds = setting("Model", "Bound on measuring a model's profile at start.", 8.0)
    warm_up_s: Seconds = setting("Model", "Bound on a model's warm-up runs; what is left over is skipped.", 20.0)

    host: str = setting("Addresses", "Address of all ports; 0.0.0.0 for every interface.", "127.0.0.1", form="ADDRESS")
    http_port: Port = setting("Addresses", "Data port; 0 takes a free one.", 8080, form="PORT")
    grpc_port: Port = setting(
        "Addresses",
        "Data port of the protocol's gRPC form; 0 takes a free one.",
        form="PORT",
        shown="http-port + 1, or 0 where that is 0",
        default_factory=lambda known: known["http_port"] and min(known["http_port"] + 1, 65535),
    )
    control_port: Port = setting("Addresses", "Metrics, health, control; 0 takes a free one.", 9090, form="PORT")
    control_token_file: Path | None = setting(
        "Addresses",
        "File with the bearer token of the control endpoints; they stay closed without.",
        None,
        form="FILE",
        shown="none",
    )

    slo_ms: Annotated[dict[str, Milliseconds], *BY_MODEL] = setting(
        "Deadlines", "End-to-end objective of requests that name none.", {EVERY: 1000.0}, form="[NAME=]MS", shown="1000"
    )
    slo_class: Annotated[dict[str, Milliseconds], NoDecode, _named("NAME=MS")] = setting(
        "Deadlines",
        "A named objective, chosen by x-sponge-slo-class.",
        form="NAME=MS",
        shown="none",
        default_factory=dict,
    )

    cores: Cores = setting("Size", "Quota to assume until the cgroup or the operator says otherwise.", 2.0)
    step_cores: Cores = setting("Size", "Distance between sizes to plan with.", 1.0)
    max_cores: Cores = setting(
        "Size",
        "Largest size to plan with; admission counts on it.",
        shown="cores",
        default_factory=lambda known: known["cores"],
    )
    min_cores: Cores = setting(
        "Size",
        "Smallest size to plan with.",
        shown="least of the others",
        default_factory=lambda known: min(known["cores"], known["step_cores"], known["max_cores"]),
    )
    dispatch: PolicyName = setting("Dispatch", "The policy that decides what starts when; listed below.", DEFAULT)

    max_lanes: int = setting("Size", "Bound on the lanes, each of which costs some tens of megabytes.", 16, ge=1)
    resize_s: Seconds = setting("Size", "What the projection charges for a change of the quota.", 0.05)

    max_body_bytes: Bytes = setting("Limits", "Larger bodies are refused with 413.", 64 << 20)
    max_json_bytes: Bytes = setting(
        "Limits", "Larger JSON parts are refused with 413: parsing them holds up all others.", 8 << 20
    )
    max_queue_bytes: Bytes = setting(
        "Limits", "Bodies held at once, waiting or running; beyond it requests are shed with 503.", 512 << 20
    )

    max_queue_rows: int = setting("Limits", "Rows that may wait; beyond it requests are shed with 503.", 10_000, ge=1)
    header_timeout_s: Positive = setting("Limits", "For the headers of a request to come in; 408 after that.", 10.0)
    keep_alive_s: Positive = setting(
        "Limits", "How long a connection may idle between requests; longer than clients keep theirs.", 75.0
    )
    write_timeout_s: Positive = setting("Limits", "How long a client may leave its answer unread.", 30.0)
    max_connections: int = setting(
        "Limits", "Open connections a port; more are refused with 503, over gRPC closed.", 4096, ge=1
    )
    backlog: int = setting("Limits", "Connections that the kernel keeps until they are taken.", 2048, ge=1)

    drain_delay_s: Seconds = setting(
        "End", "After SIGTERM, how long requests are still taken while readiness says no.", 0.0
    )
    drain_s: Seconds = setting("End", "Longest wait for accepted requests after that.", 30.0)

    log_level: Level = setting("Logs", "Least level of what is logged to stderr.", "info")
    tracing: bool = setting(
        "Logs", "A span a request over OTLP; needs the extra 'tracing', takes its target from OTEL_* variables.", False
    )
    log_format: Format = setting("Logs", "One event a line; auto is text on a terminal, else json.", "auto")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Values as given, and nothing else: the command reads environment and file, and remembers what came whence."""
        return (init_settings,)

    @model_validator(mode="after")
    def _fit_together(self) -> ServerSettings:
        for field in ("max_batch", "profile", "slo_ms"):
            for name in getattr(self, field).keys() - {EVERY, *self.model}:
                known = " or ".join(map(repr, self.model))
                raise ContradictionError(f"{{{field}}}: there is no such model here, only {known}", **{field: name})
        if self.min_cores > self.max_cores:
            text = "{min_cores} is above {max_cores}: lower the one or raise the other"
            raise ContradictionError(text, min_cores=f"{self.min_cores:g}", max_cores=f"{self.max_cores:g}")
        if self.max_body_bytes > self.max_queue_bytes:
            text = "{max_body_bytes} is above {max_queue_bytes}: such a body would never find room; raise the latter"
            raise ContradictionError(text, max_body_bytes=self.max_body_bytes, max_queue_bytes=self.max_queue_bytes)
        return self

    @property
    def models(self) -> tuple[ModelSettings, ...]:
        """Every model, with what holds for it."""
        return tuple(
            ModelSettings(
                name=name,
                source=source,
                max_batch=self._of("max_batch", name),
                profile=self._of("profile", name),
                slo_s=self._of("slo_ms", name) / 1000,
            )
            for name, source in self.model.items()
        )

    @property
    def slo_classes(self) -> dict[str, float]:
        """Seconds of every named objective."""
        return {name: limit_ms / 1000 for name, limit_ms in self.slo_class.items()}

    @property
    def candidates_milli(self) -> tuple[int, ...]:
        """The sizes of the frontier in millicores, ascending: from the smallest in steps, and always the largest."""
        return sizes_milli(milli_of(self.min_cores), milli_of(self.max_cores), milli_of(self.step_cores))

    @property
    def lanes(self) -> int:
        """As many lanes as the largest size can keep busy with one thread each."""
        return min(self.max_lanes, self.threads)

    @property
    def threads(self) -> int:
        """The most threads that will ever run at once."""
        return thread_budget(max(self.cores, self.max_cores))

    def _of(self, field: str, name: str) -> Any:
        values = type(self).model_fields[field].default | getattr(self, field)
        return values.get(name, values[EVERY])


def sizes_milli(low: int, high: int, step: int) -> tuple[int, ...]:
    """Ascending sizes from `low` in steps of `step` >= 1, and always `high`; only `high` when it is below `low`."""
    return (*range(low, high, step), high)
