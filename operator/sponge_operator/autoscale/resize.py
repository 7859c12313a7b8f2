"""The state machine of one CPU quota: what its present state is (`observe`), and what to do about it (`step`).

Pure: a pod comes in as the API server sends it, the clock is an argument, and the action goes out as a value. The
control loop calls it for pods and local cgroups alike.

The rules come from observations on Kubernetes 1.36:
- A resize is complete when the actual size (status.containerStatuses[].resources) equals the spec's. The conditions
  alone are wrong after a kubelet restart.
- A stuck resize is sent again with a different size, because the same size would be no change.
- No second resize is sent before the first one is observed.
- A Deferred resize reserves its CPU on the node and blocks later resizes, so it is always taken back.
- A size that was refused for lack of room becomes a ceiling for that pod, for a while.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sponge_core.control_api import ApplyRequest
from sponge_core.quantities import parse_cpu_milli

__all__ = [
    "Action",
    "Blocked",
    "Deferred",
    "Failed",
    "History",
    "Idle",
    "InFlight",
    "Infeasible",
    "LowerCeiling",
    "NotResizable",
    "Nothing",
    "Observed",
    "Patch",
    "Revert",
    "StayQuiet",
    "actual_milli",
    "expire",
    "observe",
    "record",
    "refused",
    "step",
]

STUCK_S = 2.0
"""A resize that is not complete by then is sent again; it takes 26 ms (p50) to 400 ms on 1.36, 1 to 2 s on 1.35."""

MAX_STUCK_S = 60.0
"""The wait before a resend doubles with each one, up to this."""

CEILING_S = 30.0
"""How long the ceiling of a full node holds; the kubelet itself retries every 30 s."""

REFUSED_S = 10.0
"""How long nothing is sent after a refusal that another size would not avoid."""

INFEASIBLE_S = 600.0
"""How long the ceiling holds for a size that exceeds the whole node: only another node changes that."""

_REQUESTED_USED_CAPACITY = re.compile(r"cpu, requested: (\d+), used: (\d+), capacity: (\d+)")
_REQUESTED_ALLOCATABLE = re.compile(r"cpu, requested: (\d+), allocatable: (\d+)")


# --- the present state ----------------------------------------------------------------------------------------------


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
    """The node has no room now; `room_milli` is what this pod could have by the node's message."""

    spec_milli: int
    actual_milli: int
    message: str
    room_milli: int | None


@dataclass(frozen=True, slots=True)
class Infeasible:
    """The node can never grant the size (too small, or a static CPU manager)."""

    spec_milli: int
    actual_milli: int
    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The kubelet reports an error."""

    spec_milli: int
    actual_milli: int
    message: str


@dataclass(frozen=True, slots=True)
class NotResizable:
    """This pod must not be resized, or not yet; `reason` is machine-readable."""

    reason: Literal["NotRunning", "Terminating", "NoContainer", "RestartPolicy", "NoLimit"]
    message: str


Observed = Idle | InFlight | Deferred | Infeasible | Failed | NotResizable


def observe(pod: Mapping[str, Any], container: str, quota_milli: int | None = None) -> Observed:
    """The state of a pod's resize, from its spec and status.

    Args:
        pod: as the API server sends it.
        container: name of the container to resize.
        quota_milli: the CPU quota that the container itself reads, if known; it changes before the status does.
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
    # Conditions of an earlier generation belong to an earlier resize.
    generation = pod["metadata"].get("generation", 0)
    # If the spec equals what the container has, a refused resize was taken back and the kubelet has not seen that yet.
    if pending is not None and wanted != actual and pending.get("observedGeneration", generation) >= generation:
        message = pending.get("message") or ""
        if pending.get("reason") == "Infeasible":
            return Infeasible(wanted, actual, message)
        return Deferred(wanted, actual, message, _room(message))
    if quota_milli is not None and quota_milli == wanted:
        return Idle(wanted)
    failed = progress is not None and progress.get("reason") == "Error"
    if progress is not None and failed and progress.get("observedGeneration", generation) >= generation:
        return Failed(wanted, actual, progress.get("message") or "")
    observed_generation = status.get("observedGeneration", generation)
    if progress is not None or observed_generation < generation or actual != wanted:
        return InFlight(wanted, actual)
    return Idle(wanted)


def actual_milli(observed: Observed) -> int | None:
    """The CPU in force; None where no resize is possible."""
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


# --- the action ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing to send now."""

    reason: Literal["Settled", "InFlight", "NotResizable", "Refused"]


@dataclass(frozen=True, slots=True)
class Patch:
    """Request this size; `again` when an earlier request seems to be stuck."""

    milli: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Revert:
    """Take a resize back to the size in force, and stay below the ceiling for `for_s` seconds."""

    milli: int
    ceiling_milli: int
    for_s: float
    outcome: Literal["deferred", "infeasible", "error"]
    message: str


@dataclass(frozen=True, slots=True)
class LowerCeiling:
    """The request was refused for its size: there is nothing to take back, but a ceiling to stay below."""

    ceiling_milli: int
    for_s: float
    message: str


@dataclass(frozen=True, slots=True)
class StayQuiet:
    """The request was refused for a reason that another size would not avoid: send nothing for a while."""

    for_s: float
    message: str


Action = Nothing | Patch | Revert


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a server does not get the size that it should have; `reason` is machine-readable."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class History:
    """What happened to a server's resizes so far; each look carries it to the next one.

    Attributes:
        patched_at: when a quota was last requested.
        resends: how often a stuck request was repeated.
        ceiling_milli: what the node has for this pod, until `ceiling_until`; None for no known limit.
        quiet_until: no request is sent before this time.
        blocked: the newest refusal that still holds.
        acknowledged: the newest budget and cap that the server acknowledged.
    """

    patched_at: float | None = None
    resends: int = 0
    ceiling_milli: int | None = None
    ceiling_until: float = 0.0
    quiet_until: float = 0.0
    blocked: Blocked | None = None
    acknowledged: ApplyRequest | None = None


def expire(history: History, now: float) -> History:
    """The history without a ceiling that no longer holds, and without the refusal that set it."""
    if history.ceiling_milli is None or now < history.ceiling_until:
        return history
    return replace(history, ceiling_milli=None, blocked=None)


def step(observed: Observed, target_milli: int, history: History, now: float) -> Action:
    """The action that is due now to bring the quota to `target_milli`, a size at or below the ceiling."""
    match observed:
        case NotResizable():
            return Nothing("NotResizable")
        case Idle(milli) if milli == target_milli:
            return Nothing("Settled")
        case _ if now < history.quiet_until:
            return Nothing("Refused")
        case Idle():
            return Patch(target_milli)
        case InFlight(spec_milli):
            patience = min(MAX_STUCK_S, STUCK_S * 2**history.resends)
            if history.patched_at is not None and now - history.patched_at < patience:
                return Nothing("InFlight")
            # The kubelet ignores an unchanged size; one millicore less makes it look again.
            return Patch(target_milli if target_milli != spec_milli else target_milli - 1, again=True)
        case Deferred(_, actual, message, room):
            ceiling = max(actual, room) if room is not None else actual
            return Revert(actual, ceiling, CEILING_S, "deferred", message)
        case Infeasible(_, actual, message):
            return Revert(actual, actual, INFEASIBLE_S, "infeasible", message)
        case Failed(_, actual, message):
            return Revert(actual, actual, CEILING_S, "error", message)


def record(history: History, action: Action | LowerCeiling | StayQuiet, now: float) -> History:
    """The history after an action was carried out, or after a refusal."""
    match action:
        case Patch(again=again):
            return replace(history, patched_at=now, resends=history.resends + 1 if again else 0)
        case Revert(ceiling_milli=ceiling, for_s=for_s):
            return replace(history, patched_at=now, resends=0, ceiling_milli=ceiling, ceiling_until=now + for_s)
        case LowerCeiling(ceiling, for_s):
            return replace(history, ceiling_milli=ceiling, ceiling_until=now + for_s)
        case StayQuiet(for_s):
            return replace(history, quiet_until=now + for_s)
        case _:
            return history


def refused(status: int, body: Mapping[str, Any], asked_milli: int, has_milli: int) -> LowerCeiling | StayQuiet:
    """The consequence of the API server's refusal of a resize.

    Args:
        status: HTTP status of the response; 0 for no response.
        body: the Status object of the response.
        asked_milli: the size that was refused.
        has_milli: the size in force, which is always possible.
    """
    causes = ((body.get("details") or {}).get("causes")) or ()
    message = body.get("message") or ""
    if status == 403 and any(cause.get("reason") == "NodeCapacity" for cause in causes):
        match = _REQUESTED_ALLOCATABLE.search(message)
        room = int(match[2]) if match else has_milli
        return LowerCeiling(room if has_milli < room < asked_milli else has_milli, INFEASIBLE_S, message)
    if status == 403 and "exceeded quota" in message:
        return LowerCeiling(has_milli, CEILING_S, message)
    # An overloaded or restarting API server recovers soon; RBAC, a LimitRange or an admission webhook does not.
    return StayQuiet(1.0 if status in (0, 429) or status >= 500 else REFUSED_S, message)
