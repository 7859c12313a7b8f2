"""The in-place resize of one pod as a state machine: what its status says, and what to do about it.

Pure: pods come in as the API server sends them, the clock as an argument, and what to do goes out as a value. Knows
nothing of how a patch is sent or of why a size is wanted.

The rules, with their reasons, are those observed on Kubernetes 1.36:
- done means that the actual size (status.containerStatuses[].resources) equals the spec's; the conditions alone lie
  after a restart of the kubelet, and a resize that hangs is sent again (a changed one: the same again is no change);
- no second resize before the first is observed;
- a Deferred resize keeps what it asked for from other pods and blocks later ones: it never stands, it is taken back;
- a size refused for want of room becomes a ceiling for that pod, for a while.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sponge_core.quantities import parse_cpu_milli

__all__ = [
    "Action",
    "Deferred",
    "Failed",
    "Idle",
    "InFlight",
    "Infeasible",
    "LowerCeiling",
    "Memory",
    "NotResizable",
    "Nothing",
    "Observed",
    "Patch",
    "Revert",
    "StayQuiet",
    "actual_milli",
    "allowed_milli",
    "observe",
    "refused",
    "remember",
    "step",
]

STUCK_S = 2.0
"""A resize takes 26 ms (p50) to 400 ms on 1.36 and 1 to 2 s on 1.35: what is not done by then is sent again."""

MAX_STUCK_S = 60.0
CEILING_S = 30.0
"""How long a full node is believed: the kubelet itself looks again every 30 s."""
REFUSED_S = 10.0
INFEASIBLE_S = 600.0
"""What a node can never hold changes with the node, not with the load."""

_REQUESTED_USED_CAPACITY = re.compile(r"cpu, requested: (\d+), used: (\d+), capacity: (\d+)")
_REQUESTED_ALLOCATABLE = re.compile(r"cpu, requested: (\d+), allocatable: (\d+)")


# --- what a pod's status says ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Idle:
    """No resize is under way; the pod has what its spec says."""

    milli: int


@dataclass(frozen=True, slots=True)
class InFlight:
    """The spec asks for another size than the container has."""

    spec_milli: int
    actual_milli: int


@dataclass(frozen=True, slots=True)
class Deferred:
    """The node has no room now; `room_milli` is what it said that this pod could have."""

    spec_milli: int
    actual_milli: int
    message: str
    room_milli: int | None


@dataclass(frozen=True, slots=True)
class Infeasible:
    """The node can never do it (its size, a static CPU manager)."""

    spec_milli: int
    actual_milli: int
    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The kubelet tried and reports an error."""

    spec_milli: int
    actual_milli: int
    message: str


@dataclass(frozen=True, slots=True)
class NotResizable:
    """This pod is not to be touched, or not yet; `reason` is machine-readable."""

    reason: Literal["NotRunning", "Terminating", "NoContainer", "RestartPolicy", "NoLimit"]
    message: str


Observed = Idle | InFlight | Deferred | Infeasible | Failed | NotResizable


def observe(pod: Mapping[str, Any], container: str, quota_milli: int | None = None) -> Observed:
    """What the pod's spec and status say of its resize.

    Args:
        pod: as the API server sends it.
        container: name of the container that is driven.
        quota_milli: the CPU quota that the container itself reads, if known: it is there before the status is.
    """
    if pod["metadata"].get("deletionTimestamp"):
        return NotResizable("Terminating", "the pod is being deleted")
    spec = next((c for c in pod["spec"]["containers"] if c["name"] == container), None)
    if spec is None:
        return NotResizable("NoContainer", f"the pod has no container {container!r}")
    if any(p["resourceName"] == "cpu" and p["restartPolicy"] != "NotRequired" for p in spec.get("resizePolicy") or ()):
        return NotResizable("RestartPolicy", f"resizing CPU would restart container {container!r}; set NotRequired")
    limit = ((spec.get("resources") or {}).get("limits") or {}).get("cpu")
    if limit is None:
        return NotResizable("NoLimit", f"container {container!r} has no CPU limit")
    status = pod.get("status") or {}
    statuses = status.get("containerStatuses") or ()
    own = next((c for c in statuses if c["name"] == container), None)
    if status.get("phase") != "Running" or own is None or "running" not in (own.get("state") or {}):
        return NotResizable("NotRunning", "the container is not running yet")

    wanted = parse_cpu_milli(limit)
    reported = ((own.get("resources") or {}).get("limits") or {}).get("cpu")
    actual = parse_cpu_milli(reported) if reported is not None else wanted
    conditions = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    pending, progress = conditions.get("PodResizePending"), conditions.get("PodResizeInProgress")
    # Conditions of an earlier generation speak of an earlier resize.
    generation = pod["metadata"].get("generation", 0)
    # Where the spec already asks for what the container has, a refused resize was taken back, and the kubelet has yet
    # to see it.
    if pending is not None and wanted != actual and pending.get("observedGeneration", generation) >= generation:
        message = pending.get("message") or ""
        if pending.get("reason") == "Infeasible":
            return Infeasible(wanted, actual, message)
        return Deferred(wanted, actual, message, _room(message))
    if quota_milli is not None and quota_milli == wanted:
        return Idle(wanted)
    if progress is not None and progress.get("reason") == "Error":
        return Failed(wanted, actual, progress.get("message") or "")
    observed_generation = status.get("observedGeneration", generation)
    if progress is not None or observed_generation < generation or actual != wanted:
        return InFlight(wanted, actual)
    return Idle(wanted)


def actual_milli(observed: Observed) -> int | None:
    """The CPU that the container has; None where no resize is possible."""
    match observed:
        case Idle(milli):
            return milli
        case NotResizable():
            return None
        case _:
            return observed.actual_milli


def _room(message: str) -> int | None:
    match = _REQUESTED_USED_CAPACITY.search(message)
    return max(0, int(match[3]) - int(match[2])) if match else None


# --- what to do about it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Nothing:
    """Wait, or be content."""

    reason: Literal["Settled", "InFlight", "NotResizable", "Refused"]


@dataclass(frozen=True, slots=True)
class Patch:
    """Ask for this size; `again` when an earlier request for it seems to be stuck."""

    milli: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Revert:
    """Take a resize back to what the container has, and keep below the ceiling for a while."""

    milli: int
    ceiling_milli: int
    for_s: float
    outcome: Literal["deferred", "infeasible", "error"]
    message: str


@dataclass(frozen=True, slots=True)
class LowerCeiling:
    """The API server refused the size: nothing to take back, but a ceiling to keep below."""

    ceiling_milli: int
    for_s: float
    message: str


@dataclass(frozen=True, slots=True)
class StayQuiet:
    """The API server refused for a reason that another size does not cure: ask nothing for a while."""

    for_s: float
    message: str


Action = Nothing | Patch | Revert


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of a pod between two looks at it."""

    patched_at: float | None = None
    resends: int = 0
    ceiling_milli: int | None = None
    ceiling_until: float = 0.0
    quiet_until: float = 0.0


def allowed_milli(memory: Memory, now: float) -> int | None:
    """The ceiling that is still believed; None for none."""
    return memory.ceiling_milli if now < memory.ceiling_until else None


def step(observed: Observed, target_milli: int, memory: Memory, now: float) -> Action:
    """What to do now to bring a pod to `target_milli`, which is a wish that already respects the ceiling."""
    match observed:
        case NotResizable():
            return Nothing("NotResizable")
        case Idle(milli) if milli == target_milli:
            return Nothing("Settled")
        case _ if now < memory.quiet_until:
            return Nothing("Refused")
        case Idle():
            return Patch(target_milli)
        case InFlight(spec_milli):
            patience = min(MAX_STUCK_S, STUCK_S * 2**memory.resends)
            if memory.patched_at is not None and now - memory.patched_at < patience:
                return Nothing("InFlight")
            # The same size again would change nothing, and the kubelet would not look: one millicore less makes it
            # look.
            return Patch(target_milli if target_milli != spec_milli else target_milli - 1, again=True)
        case Deferred(_, actual, message, room):
            ceiling = max(actual, room) if room is not None else actual
            return Revert(actual, ceiling, CEILING_S, "deferred", message)
        case Infeasible(_, actual, message):
            return Revert(actual, actual, INFEASIBLE_S, "infeasible", message)
        case Failed(_, actual, message):
            return Revert(actual, actual, CEILING_S, "error", message)


def remember(memory: Memory, action: Action | LowerCeiling | StayQuiet, now: float) -> Memory:
    """The memory after an action was carried out, or a refusal came."""
    match action:
        case Patch(again=again):
            return replace(memory, patched_at=now, resends=memory.resends + 1 if again else 0)
        case Revert(ceiling_milli=ceiling, for_s=for_s):
            return replace(memory, patched_at=now, resends=0, ceiling_milli=ceiling, ceiling_until=now + for_s)
        case LowerCeiling(ceiling, for_s):
            return replace(memory, ceiling_milli=ceiling, ceiling_until=now + for_s)
        case StayQuiet(for_s):
            return replace(memory, quiet_until=now + for_s)
        case _:
            return memory


def refused(status: int, body: Mapping[str, Any], asked_milli: int, has_milli: int) -> LowerCeiling | StayQuiet:
    """What follows from an API server's refusal of a resize.

    Args:
        status: HTTP status of the answer; 0 when none came.
        body: the Status object of the answer.
        asked_milli: the size that was refused.
        has_milli: what the container has, which is always possible.
    """
    causes = ((body.get("details") or {}).get("causes")) or ()
    message = body.get("message") or ""
    if status == 403 and any(cause.get("reason") == "NodeCapacity" for cause in causes):
        match = _REQUESTED_ALLOCATABLE.search(message)
        room = int(match[2]) if match else has_milli
        return LowerCeiling(room if has_milli < room < asked_milli else has_milli, INFEASIBLE_S, message)
    if status == 403 and "exceeded quota" in message:
        return LowerCeiling(has_milli, CEILING_S, message)
    # Overload and restarts of the API server pass soon; RBAC, a LimitRange or an admission webhook do not.
    return StayQuiet(1.0 if status in (0, 429) or status >= 500 else REFUSED_S, message)
