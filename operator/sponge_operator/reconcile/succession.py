"""Whether another operator follows when this one stops."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from sponge_operator.clients.kube import ApiError, Kube
from sponge_system.logs import event

__all__ = ["has_successor"]

log = logging.getLogger("sponge.operator")

PATIENCE_S = 5.0
"""Whether pods are left large enough depends on the answer, so one refusal is not enough."""

AGAIN_S = 0.3


async def has_successor(kube: Kube, deployment: str | None) -> bool:
    """Whether the Deployment that runs this operator goes on; then the pods keep their sizes for the next one.

    Args:
        deployment: NAMESPACE/NAME; None where none runs it, so that nobody follows.
    """
    if deployment is None:
        return False
    namespace, _, name = deployment.partition("/")
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = await _read(kube, namespace, name)
    except TimeoutError:
        return True  # a restart is far more usual than an end
    if found is None or found["metadata"].get("deletionTimestamp"):
        return False
    return bool(found["spec"].get("replicas", 1))


async def _read(kube: Kube, namespace: str, name: str) -> dict[str, Any] | None:
    while True:
        try:
            return await kube.get("Deployment", namespace, name)
        except ApiError as error:
            event(log, "deployment.unreadable", logging.WARNING, status=error.status, message=error)
        await asyncio.sleep(AGAIN_S)
