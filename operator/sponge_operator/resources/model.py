"""SpongeService as Python data, with quantities as numbers.

The CRD has validated the manifest already. A failure here means that the CRD in the cluster has another version than
the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sponge_core.control_api import SizeRange
from sponge_core.errors import SpongeError
from sponge_core.quantities import parse_bytes, parse_cpu_milli, parse_time_s
from sponge_core.resource_names import PAUSE_ANNOTATION, WAKE_ANNOTATION

__all__ = [
    "CpuRange",
    "Memory",
    "Mode",
    "Profile",
    "Replicas",
    "ServiceSpec",
    "SpongeService",
    "parse_service",
    "woken_at",
]

Mode = Literal["Auto", "Recommend", "Off"]
T = TypeVar("T")


def _with(parse: Callable[[Any], T]) -> BeforeValidator:
    def validate(value: object) -> T:
        try:
            return parse(value)
        except SpongeError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(validate)


Milli = Annotated[int, _with(parse_cpu_milli)]
Bytes = Annotated[int, _with(parse_bytes)]
Seconds = Annotated[float, _with(parse_time_s)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Variant(_Part):
    name: str
    source: str
    accuracy: float


class Model(_Part):
    name: str
    source: str
    accuracy: float | None = None
    variants: tuple[Variant, ...] = ()


class SloClass(_Part):
    name: str
    latency: Seconds
    accuracy_floor: float | None = Field(default=None, validation_alias=AliasChoices("accuracyFloor"))


class Slo(_Part):
    latency: Seconds
    accuracy_floor: float | None = Field(default=None, validation_alias=AliasChoices("accuracyFloor"))
    classes: tuple[SloClass, ...] = ()
    target: float = Field(default=99.0, description="percent")
    weight: int = Field(default=1, description="cost of a missed request, relative to other services")


class MaxGrow(_Part):
    """The most that one resize adds: millicores, or a percentage of the size in force."""

    milli: Milli | None = None
    percent: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        text = str(value)
        return {"percent": text.removesuffix("%")} if text.endswith("%") else {"milli": text}


class CpuRange(_Part):
    """Sizes of a pod in millicores: `min` plus whole steps, up to `max`; `idle` when it is parked.

    `startup` is that of a new one, which is scheduled with `max` at most and gets the rest on its node. `fallback` is
    the least size of a pod that no operator drives any more; None: its startup size, and `max` at most.
    """

    min: Milli
    max: Milli
    step: Milli = 1000
    startup: Milli | None = None
    idle: Milli | None = None
    idle_after: Seconds = Field(default=60.0, validation_alias=AliasChoices("idleAfter"))
    max_grow: MaxGrow | None = Field(default=None, validation_alias=AliasChoices("maxGrow"))
    grow_cooldown: Seconds = Field(default=0.0, validation_alias=AliasChoices("growCooldown"))
    shrink_cooldown: Seconds = Field(default=0.0, validation_alias=AliasChoices("shrinkCooldown"))
    fallback: Milli | None = None

    @property
    def sizes(self) -> SizeRange:
        """The sizes of a pod that is not parked."""
        return SizeRange(min_milli=self.min, max_milli=self.max, step_milli=self.step)

    @property
    def boost(self) -> int | None:
        """The size of a pod until it is ready, where that is above `max`."""
        return self.startup if self.startup is not None and self.startup > self.max else None


class Memory(_Part):
    base: Bytes = 2**30
    per_batch_item: Bytes = Field(default=16 * 2**20, validation_alias=AliasChoices("perBatchItem"))
    in_place: bool = Field(default=False, validation_alias=AliasChoices("inPlace"))


class Batch(_Part):
    max: int = 8


class Replicas(_Part):
    """The range of the number of pods; with `min` 0, all of them go after `idle.remove_after` without a request."""

    min: int = 1
    max: int = 1

    @property
    def at_first(self) -> int:
        """The number of pods of a new service."""
        return max(1, self.min)

    @property
    def is_fixed(self) -> bool:
        return self.min == self.max

    def within(self, number: int) -> int:
        """The number in the range that is nearest to this one."""
        return max(self.min, min(self.max, number))


class IdleService(_Part):
    """What becomes of a service without requests, beside the size of its pods."""

    remove_after: Seconds | None = Field(default=None, validation_alias=AliasChoices("removeAfter"))


class ConfigMapKey(_Part):
    name: str
    key: str = "profile.yaml"


class FrontTls(_Part):
    """The Secrets for TLS between a front and its clients."""

    secret_name: str = Field(validation_alias=AliasChoices("secretName"))
    client_ca_secret: str | None = Field(default=None, validation_alias=AliasChoices("clientCaSecret"))


class Front(_Part):
    replicas: int = 2
    tls: FrontTls | None = None


class Profile(_Part):
    """Where the latency profile comes from: one of the three."""

    shipped: str = Field(default="auto", validation_alias=AliasChoices("from"))
    config_map: ConfigMapKey | None = Field(default=None, validation_alias=AliasChoices("configMap"))
    inline: dict[str, Any] | None = None

    @property
    def is_measured(self) -> bool:
        """Each server has it from its own measurement, or from that of an earlier pod."""
        return self.shipped == "auto" and self.config_map is None and self.inline is None


class Planner(_Part):
    policy: Literal["projected", "paper"] = "projected"
    look_back: Seconds = Field(default=1.0, validation_alias=AliasChoices("lookBack"))
    fallback_after: Seconds = Field(default=60.0, validation_alias=AliasChoices("fallbackAfter"))


class Tls(_Part):
    """A Secret of type kubernetes.io/tls with the certificate of the servers' ports."""

    secret_name: str = Field(validation_alias=AliasChoices("secretName"))


class ApiKeys(_Part):
    """A Secret with the API keys of the servers' data ports."""

    secret_name: str = Field(validation_alias=AliasChoices("secretName"))
    key: str = "keys"


class ServiceSpec(_Part):
    model: Model
    slo: Slo
    cpu: CpuRange
    memory: Memory = Memory()
    batch: Batch = Batch()
    replicas: Replicas = Replicas()
    front: Front | None = None
    idle: IdleService = IdleService()
    profile: Profile = Profile()
    mode: Mode = "Auto"
    planner: Planner = Planner()
    tls: Tls | None = None
    api_keys: ApiKeys | None = Field(default=None, validation_alias=AliasChoices("apiKeys"))
    template: dict[str, Any] = Field(default_factory=dict)


class SpongeService(_Part):
    """One SpongeService: its identity in the cluster, its spec, and whether it is paused.

    Attributes:
        pause: value of the annotation that pauses it; empty if there is none.
        woken: when a pod was asked for, by the annotation and by fronts in the status.
    """

    name: str
    namespace: str
    uid: str
    generation: int
    pause: str
    spec: ServiceSpec
    woken: tuple[str, ...] = ()

    @property
    def paused(self) -> bool:
        """No size changes. A value that is not understood pauses too, because somebody meant to."""
        return self.pause not in ("", "false", "grow", "shrink")

    @property
    def paused_direction(self) -> Literal["grow", "shrink"] | None:
        """Sizes do not change in this direction."""
        match self.pause:
            case "grow" | "shrink" as direction:
                return direction
            case _:
                return None

    def is_awake(self, now: float) -> bool:
        """Whether a pod was asked for less than `idle.removeAfter` ago. A time that is not understood counts.

        Args:
            now: epoch seconds.
        """
        keep_s = self.spec.idle.remove_after
        return keep_s is not None and any(_is_within(keep_s, time, now) for time in self.woken)

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def without_template(self) -> SpongeService:
        """This service with pods as the operator alone makes them."""
        return self.model_copy(update={"spec": self.spec.model_copy(update={"template": {}})})

    def with_defaults(self, tls_secret: str | None, api_keys_secret: str | None) -> SpongeService:
        """This service with Secrets of these names where its spec names none; None: no default."""
        spec, changes = self.spec, dict[str, _Part]()
        if spec.tls is None and tls_secret is not None:
            changes["tls"] = Tls.model_validate({"secretName": tls_secret})
        if spec.api_keys is None and api_keys_secret is not None:
            changes["api_keys"] = ApiKeys.model_validate({"secretName": api_keys_secret})
        return self.model_copy(update={"spec": spec.model_copy(update=changes)}) if changes else self


def woken_at(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The times at which people, by the annotation, and fronts, in the status, have asked for a pod."""
    by_people = (body["metadata"].get("annotations") or {}).get(WAKE_ANNOTATION)
    by_fronts = (body.get("status") or {}).get("wake")
    return tuple(str(time) for time in (by_people, by_fronts) if time)


def _is_within(keep_s: float, time: str, now: float) -> bool:
    try:
        return now - datetime.fromisoformat(time).timestamp() < keep_s
    except ValueError:
        return True


def parse_service(body: Mapping[str, Any]) -> SpongeService:
    """Reads a SpongeService as the API server sends it.

    Raises:
        SpongeError: a field is missing or malformed; the message names the first one.
    """
    metadata = body["metadata"]
    try:
        spec = ServiceSpec.model_validate(dict(body.get("spec") or {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SpongeError(
            f"SpongeService {metadata['namespace']}/{metadata['name']}: spec.{where}: {first['msg']}; "
            "apply the CRD of this operator's version"
        ) from None
    annotations = metadata.get("annotations") or {}
    return SpongeService(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        pause=annotations.get(PAUSE_ANNOTATION) or "",
        spec=spec,
        woken=woken_at(body),
    )
