"""Everything that the status of a SpongeService is built from. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sponge_operator.autoscale.pod_state import PodState
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.obstacles import Obstacle

__all__ = ["StatusInput"]


@dataclass(frozen=True, slots=True)
class StatusInput:
    """Everything that a status is built from.

    Attributes:
        pods: states of the pods that are not on their way out, by name.
        deployment: as the API server sent it last; None if there is none.
        attainment: percent of requests in time; None without requests.
        trouble: what went wrong when the spec was carried out; None if nothing did.
        is_current: every child was applied as the newest spec has it.
        missing_profile: message about a profile reference to something that does not exist.
        missing_secret: likewise about a Secret that the pods mount.
        conflict: message about another autoscaler of the same pods.
        now: epoch seconds.
        unable: reason and message if the cluster lets the operator change no size, else None.
    """

    service: SpongeService
    pods: Sequence[PodState]
    deployment: Mapping[str, Any] | None
    attainment: float | None
    trouble: Obstacle | None
    is_current: bool
    missing_profile: str | None
    missing_secret: str | None
    conflict: str | None
    now: float
    unable: tuple[str, str] | None = None
