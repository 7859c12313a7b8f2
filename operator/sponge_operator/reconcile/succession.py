"""Whether another operator follows when this one stops."""

from __future__ import annotations

from sponge_operator.clients.kube import ApiError, Kube

__all__ = ["has_successor"]


async def has_successor(kube: Kube, deployment: str | None) -> bool:
    """Whether the Deployment that runs this operator goes on; then the pods keep their sizes for the next one.

    Args:
        deployment: NAMESPACE/NAME; None where none runs it, so that nobody follows.
    """
    if deployment is None:
        return False
    namespace, _, name = deployment.partition("/")
    try:
        found = await kube.get("Deployment", namespace, name)
    except ApiError:
        return True  # a restart is far more usual than an end
    if found is None or found["metadata"].get("deletionTimestamp"):
        return False
    return bool(found["spec"].get("replicas", 1))
