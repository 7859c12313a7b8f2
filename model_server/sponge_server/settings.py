"""What a server is told once, at its start. Resolved by the command, passed down; nobody below reads the environment.

Knows nothing of how the values are used; refuses combinations that cannot work, with the option to change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sponge_core.errors import SpongeError
from sponge_core.running import thread_budget

__all__ = ["ServerSettings", "SettingsError", "milli", "sizes_milli"]


class SettingsError(SpongeError):
    """Options that contradict each other or lie out of range."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """All options of `sponge serve`. CPU in cores (fractions allowed), time in seconds, sizes in bytes.

    Attributes:
        model_name: name in the URLs and metrics.
        model_source: where the model comes from, e.g. `torchvision://resnet18?weights=DEFAULT`.
        host: address that both ports listen on.
        http_port: data port; 0 takes a free one.
        control_port: metrics, health and control; 0 takes a free one.
        slo_s: end-to-end objective of requests that name none.
        slo_classes: named objectives, chosen by `x-sponge-slo-class`.
        cores: quota to assume until the cgroup or the operator says otherwise; may lie outside of the plan's sizes,
            as a boost for the start does.
        min_cores: smallest size of the frontier.
        max_cores: largest size of the frontier; the most that a plan may give, so also what admission counts on.
        step_cores: distance between sizes of the frontier.
        max_batch: largest batch, and the batch cap until the operator says otherwise.
        profile: `auto`, the name of a shipped profile, or a file.
        control_token: bearer token of the control endpoints; None keeps them closed.
        resize_s: what the projection charges for a change of the quota.
        drain_s: longest wait for accepted requests after SIGTERM.
        warm_up_s: bound on the warm-up runs; what is left over is skipped.
        profile_s: bound on measuring a profile at start.
        max_body_bytes: larger bodies are refused with 413.
        max_json_bytes: larger JSON parts are refused: parsing them would hold up every other request.
        max_queue_bytes: bodies held at once, waiting or running; beyond it requests are shed.
        max_lanes: bound on the lanes, each of which costs some tens of megabytes.
    """

    model_name: str
    model_source: str
    host: str = "127.0.0.1"
    http_port: int = 8080
    control_port: int = 9090
    slo_s: float = 1.0
    slo_classes: Mapping[str, float] = field(default_factory=dict)
    cores: float = 2.0
    min_cores: float = 1.0
    max_cores: float = 2.0
    step_cores: float = 1.0
    max_batch: int = 8
    profile: str = "auto"
    control_token: str | None = None
    resize_s: float = 0.05
    drain_s: float = 30.0
    warm_up_s: float = 20.0
    profile_s: float = 8.0
    max_body_bytes: int = 64 << 20
    max_json_bytes: int = 8 << 20
    max_queue_bytes: int = 512 << 20
    max_lanes: int = 16

    def __post_init__(self) -> None:
        if not self.model_name or "/" in self.model_name:
            raise SettingsError(f"--model: the name {self.model_name!r} must not be empty or hold a slash")
        for option, cores in (
            ("--cores", self.cores),
            ("--min-cores", self.min_cores),
            ("--step-cores", self.step_cores),
        ):
            if not cores > 0:
                raise SettingsError(f"{option} is {cores:g}: give more than 0")
        if self.min_cores > self.max_cores:
            raise SettingsError(f"--min-cores {self.min_cores:g} is above --max-cores {self.max_cores:g}: swap them")
        if self.max_batch < 1:
            raise SettingsError(f"--max-batch is {self.max_batch}: give at least 1")
        for option, value in (
            ("--slo-ms", self.slo_s),
            *((f"--slo-class {n}", v) for n, v in self.slo_classes.items()),
        ):
            if not 0 < value <= 3600:
                raise SettingsError(f"{option}: give more than 0 and at most 3,600,000 ms")

    @property
    def candidates_milli(self) -> tuple[int, ...]:
        """The sizes of the frontier in millicores, ascending: from the smallest in steps, and always the largest."""
        return sizes_milli(milli(self.min_cores), milli(self.max_cores), milli(self.step_cores))

    @property
    def lanes(self) -> int:
        """As many lanes as the largest size can keep busy with one thread each."""
        return min(self.max_lanes, self.threads)

    @property
    def threads(self) -> int:
        """The most threads that will ever run at once."""
        return thread_budget(max(self.cores, self.max_cores))


def sizes_milli(low: int, high: int, step: int) -> tuple[int, ...]:
    """Ascending sizes from `low` in steps of `step` >= 1, and always `high`; only `high` when it is below `low`."""
    return (*range(low, high, step), high)


def milli(cores: float) -> int:
    """Cores as the millicores of the Kubernetes API, rounded up: a quota is never promised that is not there."""
    return max(1, math.ceil(cores * 1000 - 1e-6))
