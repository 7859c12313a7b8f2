"""What a pod is left with when nobody sizes it any more, whatever the reason is."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sponge_operator.autoscale.memory import MemoryRule, observe_memory
from sponge_operator.autoscale.pod_state import startup_of
from sponge_operator.autoscale.resizer import restore
from sponge_operator.autoscale.target import CpuQuota
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.resources.manifests import CONTAINER

__all__ = ["Left", "leave", "left_as_started", "left_with_enough"]


@dataclass(frozen=True, slots=True)
class Left:
    """What a pod is left with, in millicores and bytes; None: what it has."""

    milli: int | None = None
    memory: int | None = None


def left_as_started(pod: Mapping[str, Any], rule: MemoryRule | None) -> Left:
    """The limits that a pod was started with, because no service sizes it any more.

    Args:
        rule: of its service's memory; None: not known.
    """
    limit = None if rule is None or not rule.in_place else observe_memory(pod, CONTAINER)
    changed = rule is not None and limit is not None and limit.spec != rule.most
    return Left(startup_of(pod), rule.most if rule is not None and changed else None)


def left_with_enough(pod: Mapping[str, Any], has_milli: int | None, fallback_milli: int | None) -> Left:
    """A size that is enough without an operator, because none follows.

    Args:
        has_milli: what the pod has, or is about to have; None: it cannot be resized.
        fallback_milli: `cpu.fallback`; None: as it was started.
    """
    least = fallback_milli or startup_of(pod)
    return Left(least if least is not None and has_milli is not None and has_milli < least else None)


async def leave(kube: Kube, quota: CpuQuota, pod: Mapping[str, Any], left: Left) -> None:
    """Requests what a pod is left with; does not wait until it is in force."""
    if left.milli is not None:
        await restore(quota, left.milli)
    if left.memory is not None:
        with contextlib.suppress(ApiError):
            await kube.resize(pod, CONTAINER, None, left.memory)
