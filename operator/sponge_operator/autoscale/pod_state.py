"""What is known of one pod at a moment: made by its driver, read by the status. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sponge_core.control_api import StateSnapshot
from sponge_operator.autoscale.recommender import Wish

__all__ = ["Blocked", "LastDecision", "PodReport", "is_in_service"]


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a pod does not get the size that it should have; `reason` is machine-readable."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class LastDecision:
    """The newest decision of a pod that changed something, or would have."""

    time: float  # epoch seconds
    from_milli: int
    to_milli: int
    batch_cap: int
    reason: str
    applied: bool


@dataclass(frozen=True, slots=True)
class PodReport:
    """None where nothing is known yet.

    Attributes:
        reachable: the server's newest state is there and fresh.
        trouble: why it is not; empty if it is.
        seen_at: monotonic seconds of the newest state.
        actuated_milli: CPU that the container has.
        in_service: the pod's own condition Ready, so the Service sends requests to it.
    """

    name: str
    reachable: bool = False
    trouble: str = "no answer from the server yet"
    seen_at: float | None = None
    snapshot: StateSnapshot | None = None
    wish: Wish | None = None
    actuated_milli: int | None = None
    in_flight: bool = False
    in_service: bool = False
    blocked: Blocked | None = None
    last: LastDecision | None = None

    @property
    def ready(self) -> bool:
        """The server takes requests, and gets them."""
        return (
            self.in_service
            and self.reachable
            and self.snapshot is not None
            and self.snapshot.ready
            and not self.snapshot.draining
        )


def is_in_service(pod: Mapping[str, Any]) -> bool:
    """Whether a pod, as the API server sends it, is Ready, so that the Service sends requests to it."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
