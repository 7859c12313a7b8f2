"""Stops an operator for good, before its rights are taken away; `helm uninstall` runs it.

An operator that is stopped for good leaves its pods large enough, which needs its rights. So it is scaled down first,
and what it leaves behind itself, its Lease, is deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from sponge_operator.clients.kube import ApiError, Kube
from sponge_system.logs import event

__all__ = ["retire"]

log = logging.getLogger("sponge.operator")

PATIENCE_S = 45.0
"""A pod may take 30 s to stop; one on a node that is lost never does."""

AGAIN_S = 0.5


async def retire(kube: Kube, deployment: tuple[str, str], lease: tuple[str, str] | None = None) -> bool:
    """Scales a Deployment to no pods, waits until they are gone, and deletes the Lease.

    What cannot be done is logged and left: an installation must be removable whatever its state.

    Args:
        deployment: namespace and name.
        lease: likewise.

    Returns:
        Whether the operator has stopped in time.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            await _stop(kube, *deployment)
    except TimeoutError:
        event(log, "retire.late", logging.WARNING, after_s=PATIENCE_S)
        return False
    if lease is not None:
        try:
            await kube.delete("Lease", *lease)
        except ApiError as error:
            event(log, "lease.left", logging.WARNING, status=error.status, message=error)
    event(log, "retire.done")
    return True


async def _stop(kube: Kube, namespace: str, name: str) -> None:
    while True:
        try:
            found = await kube.get("Deployment", namespace, name)
            if found is None:
                return
            if found["spec"].get("replicas", 1):
                await kube.merge("Deployment", namespace, name, {"spec": {"replicas": 0}})
            labels = found["spec"]["selector"]["matchLabels"]
            if not any(_has(pod, labels) for pod in await kube.list("Pod", namespace)):
                return
        except ApiError as error:
            event(log, "retire.refused", logging.WARNING, status=error.status, message=error)
        await asyncio.sleep(AGAIN_S)


def _has(pod: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return labels.items() <= (pod["metadata"].get("labels") or {}).items()
