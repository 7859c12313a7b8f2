"""What the operator knows of one pod: its controller writes it, the status is built from it. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sponge_core.control_api import StateSnapshot
from sponge_core.planning.decider import Recommendation
from sponge_operator.autoscale.resize import Blocked

__all__ = ["LastDecision", "PodState", "is_in_service"]


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
class PodState:
    """One pod; None where nothing is known yet.

    Attributes:
        reachable: the server answered the newest poll.
        trouble: why it did not; empty if it did.
        seen_at: monotonic seconds of the newest snapshot.
        recommendation: the newest one, after the node's allocation.
        actuated_milli: the CPU in force.
        in_service: the pod's condition Ready, so that the Service sends requests to it.
    """

    name: str
    reachable: bool = False
    trouble: str = "the server has not answered yet"
    seen_at: float | None = None
    snapshot: StateSnapshot | None = None
    recommendation: Recommendation | None = None
    actuated_milli: int | None = None
    in_flight: bool = False
    in_service: bool = False
    blocked: Blocked | None = None
    last: LastDecision | None = None

    @property
    def ready(self) -> bool:
        """The server accepts requests, and the Service sends some."""
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
