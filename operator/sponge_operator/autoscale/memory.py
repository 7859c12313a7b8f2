"""The memory limit in place: what it should be, its present state, and what to do about it. Pure.

The limit follows the batch cap and the lanes. The rules come from the kubelet of Kubernetes 1.36:
- It refuses a resize whose memory limit is at or below what the container uses, caches of files included. The CPU of
  the same resize then waits too. So a memory resize that is not in force soon is taken back, and every resize of the
  CPU takes one back that is under way.
- A grow needs room on the node, like one of the CPU. Until it is in force, the batch cap stays below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sponge_core.control_api import MemoryState
from sponge_core.quantities import parse_bytes
from sponge_operator.resources.containers import container_limit, container_spec, container_status

__all__ = [
    "QUIET_S",
    "MemoryAction",
    "MemoryHistory",
    "MemoryLimit",
    "MemoryRule",
    "memory_to_take_back",
    "observe_memory",
    "step_memory",
]

_MIB = 1 << 20

MARGIN = 8
"""One part of so many of the memory in use stays free on top of it."""

GRAIN = 64 * _MIB
"""What is in use changes all the time; the limit follows it in such steps."""

SHRINK_AFTER_S = 10.0
"""A shrink waits until the larger limit has not been needed for this long: memory that runs out kills the container."""

STUCK_S = 2.0
"""A resize that is not in force by then is taken back; it takes some tens of milliseconds."""

QUIET_S = 30.0
"""After a resize was taken back, or refused."""


@dataclass(frozen=True, slots=True)
class MemoryRule:
    """The limits that a service allows: `base` + `per_item` * batch cap, in bytes.

    Attributes:
        most_batch: the largest batch cap.
        in_place: the limit is changed at all.
        versions: of the model that the server has room for; 2 while a new one is loaded beside the one that serves.
    """

    base: int
    per_item: int
    most_batch: int
    in_place: bool = True
    versions: int = 1

    @property
    def most(self) -> int:
        """The limit that a pod starts with; for two versions, as much as the two pods of a rollout have."""
        return self.versions * self.at(self.most_batch)

    def at(self, batch_cap: int) -> int:
        return self.base + self.per_item * batch_cap

    def wanted(self, state: MemoryState, lanes: int, batch_cap: int) -> int:
        """The limit for a batch cap: never below what is in use with a margin, nor below what the server needs."""
        if self.versions > 1:
            return self.most
        used = state.used + state.used // MARGIN
        least = -(-max(used, state.needs(lanes, batch_cap)) // GRAIN) * GRAIN
        return min(self.most, max(self.at(batch_cap), least))

    def cap_under(self, limit: int, state: MemoryState, lanes: int, batch_cap: int) -> int:
        """The largest batch cap up to `batch_cap` that a limit has room for; 1 if there is none."""
        if limit >= self.most:
            return batch_cap
        caps = range(batch_cap, 1, -1)
        return next((cap for cap in caps if max(self.at(cap), state.needs(lanes, cap)) <= limit), 1)


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """What the pod's spec asks for, what the container has, and the kubelet's word on the difference; in bytes."""

    spec: int
    actual: int
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class MemoryHistory:
    """What happened to a container's memory resizes so far.

    Attributes:
        patched_at: when the newest was sent.
        quiet_until: none is sent before.
        smaller_since: since when less than the limit has been wanted.
        most_wanted: the most that was wanted since then.
    """

    patched_at: float = float("-inf")
    quiet_until: float = float("-inf")
    smaller_since: float | None = None
    most_wanted: int = 0


@dataclass(frozen=True, slots=True)
class MemoryAction:
    """A limit to request; with `taken_back`, because an earlier one did not come into force."""

    limit: int
    kind: Literal["grow", "shrink", "taken_back"]
    message: str = ""


def observe_memory(pod: Mapping[str, Any], container: str) -> MemoryLimit | None:
    """The memory limit of a pod as the API server sends it; None if there is none, or nothing is known of it."""
    wanted = container_limit(container_spec(pod, container), "memory")
    actual = container_limit(container_status(pod, container), "memory")
    if wanted is None or actual is None or pod["metadata"].get("deletionTimestamp"):
        return None
    limit = MemoryLimit(parse_bytes(wanted), parse_bytes(actual))
    if limit.spec == limit.actual:
        return limit
    generation = pod["metadata"].get("generation", 0)
    for condition in (pod.get("status") or {}).get("conditions") or ():
        refuses = condition["type"] == "PodResizePending" or condition.get("reason") == "Error"
        is_new = condition.get("observedGeneration", generation) >= generation
        if condition["type"].startswith("PodResize") and condition.get("status") == "True" and refuses and is_new:
            return replace(limit, trouble=condition.get("message") or condition["type"])
    return limit


def memory_to_take_back(pod: Mapping[str, Any], container: str) -> int | None:
    """The limit in force, if a memory resize is under way; CPU goes first, so its resize ends that one."""
    limit = observe_memory(pod, container)
    return None if limit is None or limit.spec == limit.actual else limit.actual


def step_memory(
    limit: MemoryLimit, wanted: int, history: MemoryHistory, now: float
) -> tuple[MemoryAction | None, MemoryHistory]:
    """The action that is due now to bring the limit to `wanted` bytes, and the history after it."""
    if limit.spec != limit.actual:
        if not limit.trouble and now - history.patched_at < STUCK_S:
            return None, history
        size = f"{limit.spec // _MIB} MiB"
        message = limit.trouble or f"a memory limit of {size} is not in force after {now - history.patched_at:.0f} s"
        return MemoryAction(limit.actual, "taken_back", message), MemoryHistory(now, now + QUIET_S)
    if wanted >= limit.actual:
        history = replace(history, smaller_since=None, most_wanted=0)
        if wanted == limit.actual or now < history.quiet_until:
            return None, history
        return MemoryAction(wanted, "grow"), replace(history, patched_at=now)
    since = now if history.smaller_since is None else history.smaller_since
    most = max(wanted, history.most_wanted)
    if now - since < SHRINK_AFTER_S or now < history.quiet_until:
        return None, replace(history, smaller_since=since, most_wanted=most)
    return MemoryAction(most, "shrink"), MemoryHistory(now, history.quiet_until)
