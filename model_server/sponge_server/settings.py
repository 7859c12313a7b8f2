"""Settings of a server: each field is one option of `sponge serve`.

A new setting is one entry in `ServerSettings`. Its name gives the flag (`--drain-s`), the environment variable
(`SPONGE_SERVE_DRAIN_S`) and the key in a configuration file (`drain-s`); `--help`, `--print-config` and error messages
come from the same entry. A name that ends in `_s`, `_ms` or `_bytes` says its unit.

The command resolves the settings and passes them down; no other code reads the environment. Combinations that cannot
work are refused, with the settings to change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from sponge_core.cpu_sharing import thread_budget
from sponge_core.deadlines import DEFAULT_CLASS, Claims
from sponge_core.dispatch.registry import DEFAULT, PolicyName
from sponge_core.quantities import milli_of
from sponge_core.quota import Quota
from sponge_server.security.files import TlsFiles
from sponge_server.setting_rules import (
    ContradictionError,
    ModelSettings,
    VariantSettings,
    check_model_control,
    check_tls,
    sizes_milli,
    variants_of,
)
from sponge_server.setting_values import (
    BY_MODEL,
    EVERY,
    FILE,
    LONGEST_SLO_MS,
    Accuracy,
    Bytes,
    Cores,
    Milliseconds,
    ModelName,
    Port,
    Positive,
    Seconds,
    bytes_or_none,
    named,
    setting,
)
from sponge_server.workers.interface import StartLimits
from sponge_system.logs import Format, Level

__all__ = ["ContradictionError", "ModelSettings", "ServerSettings", "sizes_milli"]


class ServerSettings(BaseSettings):
    """All options of `sponge serve`. CPU in cores (fractions allowed), sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="SPONGE_SERVE_", env_ignore_empty=True, extra="forbid", frozen=True, protected_namespaces=()
    )

    model: Annotated[dict[ModelName, str], NoDecode, named("NAME=SOURCE")] = setting(
        "Model", "Name in the URLs, and the source of the model.", form="NAME=SOURCE", min_length=1
    )
    runtime: Literal["torch", "onnx", "openvino"] | None = setting(
        "Model", "Runtime of the models; those of torch are converted at load.", None, shown="the source's own"
    )
    dtype: Literal["fp32", "bf16", "int8", "auto"] = setting(
        "Model",
        "Number format of the computation. bf16 needs a CPU with bf16, int8 ONNX; auto is bf16, or else fp32.",
        "fp32",
    )
    accept_accuracy: bool = setting(
        "Model", "Accept bf16 or int8 even if the answers differ by more than allowed.", False
    )
    model_control: Literal["none", "control", "explicit"] = setting(
        "Model",
        "control: holders of the control token may change a model's source, at the control port. explicit: they may "
        "also load and unload models, by the protocol's model repository.",
        "none",
    )
    variant: Annotated[dict[ModelName, str], NoDecode, named("NAME=SOURCE")] = setting(
        "Model",
        "Cheaper variant of the one model, and its source; it answers only under overload. See accuracy-floor.",
        form="NAME=SOURCE",
        shown="none",
        default_factory=dict,
    )
    accuracy: Annotated[dict[str, Accuracy], NoDecode, named("NAME=NUMBER")] = setting(
        "Model",
        "Accuracy of the model and of each variant, above 0 and at most 1; needed where there are variants.",
        form="NAME=NUMBER",
        shown="none",
        default_factory=dict,
    )
    max_batch: Annotated[dict[str, Annotated[int, Field(ge=1)]], *BY_MODEL] = setting(
        "Model",
        "Largest batch in rows; also the batch cap until the operator sets one.",
        {EVERY: 8},
        form="[NAME=]NUMBER",
        shown="8",
    )
    profile: Annotated[dict[str, str], *BY_MODEL] = setting(
        "Model",
        "auto measures at startup; else a shipped profile or a file.",
        {EVERY: "auto"},
        form="[NAME=]auto|PROFILE|FILE",
        shown="auto",
    )
    profile_store: Path | None = setting(
        "Model",
        "Profiles of earlier starts, in files PREFIX-CPUTYPE.yaml; auto uses the one of this machine's CPU type.",
        None,
        form="PREFIX",
    )
    profile_s: Seconds = setting("Model", "Longest time to measure a model's profile at startup.", 8.0)
    warm_up_s: Seconds = setting(
        "Model", "Longest time for a model's warm-up runs; the remaining runs are skipped.", 20.0
    )
    load_s: Positive = setting("Model", "Longest time to load a model, download included; a slower one hangs.", 600.0)
    example_s: Positive = setting(
        "Model", "Longest time for one example batch, or one new lane, at startup; a slower model hangs.", 120.0
    )

    host: str = setting(
        "Addresses", "Address of all ports; :: means every interface, of IPv6 and IPv4.", "127.0.0.1", form="ADDRESS"
    )
    http_port: Port = setting("Addresses", "Data port (REST); 0 takes a free one.", 8080, form="PORT")
    grpc_port: Port = setting(
        "Addresses",
        "Data port (gRPC); 0 takes a free one.",
        form="PORT",
        shown="http-port + 1, or 0 if that is 0",
        default_factory=lambda known: known["http_port"] and min(known["http_port"] + 1, 65535),
    )
    control_port: Port = setting(
        "Addresses", "Port of metrics, health and control; 0 takes a free one.", 9090, form="PORT"
    )
    control_token_file: Path | None = setting(
        "Addresses",
        "File with the bearer token of the control endpoints; read again when it changes. Without it they stay closed.",
        None,
        **FILE,
    )

    tls_cert_file: Path | None = setting(
        "Security", "Certificate of all ports, with its chain, in PEM; read again when it changes.", None, **FILE
    )
    tls_key_file: Path | None = setting("Security", "Its key in PEM, without a passphrase.", None, **FILE)
    tls_client_ca_file: Path | None = setting(
        "Security",
        "Authority of the clients' certificates in PEM: clients of the data ports must then have one.",
        None,
        **FILE,
    )
    api_keys_file: Path | None = setting(
        "Security",
        "API keys of the data ports, one a line as KEY or NAME: KEY; read again when it changes.",
        None,
        **FILE,
    )

    slo_ms: Annotated[dict[str, Milliseconds], *BY_MODEL] = setting(
        "Deadlines",
        "End-to-end latency objective of requests that state none.",
        {EVERY: 1000.0},
        form="[NAME=]MS",
        shown="1000",
    )
    slo_class: Annotated[dict[str, Milliseconds], NoDecode, named("NAME=MS")] = setting(
        "Deadlines",
        "Named latency objective, chosen by the header x-sponge-slo-class.",
        form="NAME=MS",
        shown="none",
        default_factory=dict,
    )

    accuracy_floor: Annotated[dict[str, Accuracy], NoDecode, named("CLASS=NUMBER")] = setting(
        "Deadlines",
        "Least accuracy of the answers of an SLO class, which variants may then give under overload; default means "
        "requests of no class. Requests of a class without a floor are answered by the model itself.",
        form="CLASS=NUMBER",
        shown="none",
        default_factory=dict,
    )

    min_slo_ms: Annotated[float, Field(ge=0, le=LONGEST_SLO_MS, allow_inf_nan=False)] = setting(
        "Deadlines",
        "Shortest time limit that a request may state; a shorter one counts as this, and so gets no earlier turn.",
        0.0,
    )
    max_slo_ms: Milliseconds = setting(
        "Deadlines", "Longest time limit that a request may state; a longer one counts as this.", float(LONGEST_SLO_MS)
    )
    max_sent_age_ms: Milliseconds = setting(
        "Deadlines",
        "Longest time on the way that x-sponge-sent-at may claim. An older send time is a clock that is behind.",
        2000.0,
    )

    cores: Cores = setting("Size", "CPU quota to assume until the cgroup or the operator sets another.", 2.0)
    step_cores: Cores = setting("Size", "Step between the sizes of a plan.", 1.0)
    max_cores: Cores = setting(
        "Size",
        "Largest size of a plan; admission relies on it.",
        shown="cores",
        default_factory=lambda known: known["cores"],
    )
    min_cores: Cores = setting(
        "Size",
        "Smallest size of a plan.",
        shown="smallest of cores, step-cores, max-cores",
        default_factory=lambda known: min(known["cores"], known["step_cores"], known["max_cores"]),
    )
    dispatch: PolicyName = setting(
        "Dispatch", "Policy that decides which requests start when; see the list below.", DEFAULT
    )

    max_lanes: int = setting("Size", "Most lanes; each one needs tens of megabytes.", 16, ge=1)
    resize_s: Seconds = setting("Size", "Time that the projection assumes for a change of the quota.", 0.05)

    max_body_bytes: Bytes = setting(
        "Limits", "Larger bodies are refused with 413; less for a model that cannot take so much.", 64 << 20
    )
    max_json_bytes: Bytes = setting(
        "Limits", "Larger JSON parts are refused with 413; less for a model that cannot take so much.", 8 << 20
    )
    max_queue_bytes: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(bytes_or_none)] = setting(
        "Limits",
        "Memory of all requests and answers at once; beyond this, requests are shed with 503.",
        None,
        form="SIZE",
        shown="an eighth of the memory limit, at most 512Mi",
    )

    max_queue_rows: int = setting(
        "Limits", "Most rows in the queue; beyond this, requests are shed with 503.", 10_000, ge=1
    )
    queue_share: Annotated[dict[str, Annotated[float, Field(gt=0, le=1)]], NoDecode, named("CLASS=SHARE")] = setting(
        "Limits",
        "Share of the queue that an SLO class has to itself once it is full; default means requests of no class.",
        form="CLASS=SHARE",
        shown="none",
        default_factory=dict,
    )
    client_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = setting(
        "Limits",
        "Header that names the client, for its quota and its clock; let the gateway set it.",
        None,
        form="HEADER",
        shown="none: the address is the client",
    )
    quota_rows_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = setting(
        "Limits", "Rows per second that one client may send; beyond this, 429.", None, form="NUMBER", shown="none"
    )
    quota_burst_rows: Annotated[float, Field(ge=1, allow_inf_nan=False)] = setting(
        "Limits", "Rows that one client may send at once after a pause, under quota-rows-per-s.", 100.0
    )
    header_timeout_s: Positive = setting(
        "Limits", "Longest time for the headers of a request to arrive; then 408.", 10.0
    )
    keep_alive_s: Positive = setting(
        "Limits", "Longest idle time of a connection between requests; choose it longer than the clients' own.", 75.0
    )
    write_timeout_s: Positive = setting("Limits", "Longest time that a client may leave a response unread.", 30.0)
    restart_s: Positive = setting(
        "Limits",
        "Time without any healthy lane until liveness ends, so that Kubernetes restarts the server.",
        60.0,
    )
    max_connections: int = setting(
        "Limits", "Most open connections per port; more are refused with 503, or closed over gRPC.", 4096, ge=1
    )
    backlog: int = setting("Limits", "Connections that the kernel queues until they are accepted.", 2048, ge=1)

    drain_delay_s: Seconds = setting(
        "End", "Time after SIGTERM during which requests are still accepted while the server is not ready.", 0.0
    )
    drain_s: Seconds = setting("End", "Longest wait for accepted requests after that.", 30.0)

    log_level: Level = setting("Logs", "Lowest level of events logged to stderr.", "info")
    tracing: bool = setting(
        "Logs",
        "Send one span per request over OTLP; needs the extra 'tracing'. OTEL_* variables set the target.",
        False,
    )
    log_format: Format = setting(
        "Logs", "Format of the log, one event per line; auto is text on a terminal, else json.", "auto"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Uses the given values only: the command reads environment and file, and records the origin of each value."""
        return (init_settings,)

    @model_validator(mode="after")
    def _fit_together(self) -> ServerSettings:
        for field in ("max_batch", "profile", "slo_ms", "accuracy"):
            variants = self.variant if field in ("profile", "accuracy") else ()
            for name in getattr(self, field).keys() - {EVERY, *self.model, *variants}:
                known = " or ".join(map(repr, self.model))
                raise ContradictionError(f"{{{field}}}: there is no such model, only {known}", **{field: name})
        if self.min_cores > self.max_cores:
            text = "{min_cores} is above {max_cores}: lower the first or raise the second"
            raise ContradictionError(text, min_cores=f"{self.min_cores:g}", max_cores=f"{self.max_cores:g}")
        if self.min_slo_ms > self.max_slo_ms:
            text = "{min_slo_ms} is above {max_slo_ms}: lower the first or raise the second"
            raise ContradictionError(text, min_slo_ms=f"{self.min_slo_ms:g}", max_slo_ms=f"{self.max_slo_ms:g}")
        for field in ("queue_share", "accuracy_floor"):
            for name in getattr(self, field).keys() - {DEFAULT_CLASS, *self.slo_class}:
                known = ", ".join((DEFAULT_CLASS, *self.slo_class))
                raise ContradictionError(f"{{{field}}}: there is no such class, only {known}", **{field: name})
        _ = self.variants
        if (total := sum(self.queue_share.values())) > 1 + 1e-9:
            text = "{queue_share} together: the shares of all classes may be 1 at most"
            raise ContradictionError(text, queue_share=f"{total:g}")
        if self.max_queue_bytes is not None and self.max_body_bytes > self.max_queue_bytes:
            text = "{max_body_bytes} is above {max_queue_bytes}: such a body would never fit; raise the second"
            raise ContradictionError(text, max_body_bytes=self.max_body_bytes, max_queue_bytes=self.max_queue_bytes)
        check_tls(self.tls_cert_file, self.tls_key_file, self.tls_client_ca_file)
        check_model_control(self.model_control, self.control_token_file, self.variant)
        return self

    @property
    def tls_files(self) -> TlsFiles | None:
        """The files of certificate and key; None: the ports speak plain text."""
        if self.tls_cert_file is None or self.tls_key_file is None:
            return None
        return TlsFiles(self.tls_cert_file, self.tls_key_file, self.tls_client_ca_file)

    @property
    def models(self) -> tuple[ModelSettings, ...]:
        """Every model with its settings."""
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
    def variants(self) -> tuple[VariantSettings, ...]:
        """The cheaper variants of the one model, the most accurate first."""
        return variants_of(self.models, self.variant, self.accuracy, self.accuracy_floor, self.profile)

    @property
    def loaded(self) -> tuple[ModelSettings, ...]:
        """Everything that a lane loads: the models, then the variants."""
        return (*self.models, *(variant.settings for variant in self.variants))

    @property
    def start_limits(self) -> StartLimits:
        """Time limits of the steps of a start."""
        return StartLimits(self.load_s, self.example_s)

    @property
    def slo_classes(self) -> dict[str, float]:
        """SLO classes, in seconds by name."""
        return {name: limit_ms / 1000 for name, limit_ms in self.slo_class.items()}

    @property
    def claims(self) -> Claims:
        """What a request may claim about its time."""
        return Claims(self.min_slo_ms / 1000, self.max_slo_ms / 1000, self.max_sent_age_ms / 1000)

    @property
    def quota(self) -> Quota | None:
        """What each client may send; None: there is no quota."""
        return None if self.quota_rows_per_s is None else Quota(self.quota_rows_per_s, self.quota_burst_rows)

    @property
    def candidates_milli(self) -> tuple[int, ...]:
        """The sizes of a plan in millicores, ascending: from the smallest in steps, and always the largest."""
        return sizes_milli(milli_of(self.min_cores), milli_of(self.max_cores), milli_of(self.step_cores))

    @property
    def lanes(self) -> int:
        """Number of lanes: as many as the largest size can keep busy with one thread each."""
        return min(self.max_lanes, self.threads)

    @property
    def threads(self) -> int:
        """The most threads that will ever run at once."""
        return thread_budget(max(self.cores, self.max_cores))

    def _of(self, field: str, name: str) -> Any:
        values = type(self).model_fields[field].default | getattr(self, field)
        return values.get(name, values[EVERY])
