# mypy: disable-error-code="untyped-decorator"
"""The kopf handlers of the operator: they pass on what has changed; `reconcile` does the work.

All handlers are for events. So kopf writes nothing: no finalizer that holds back an object without an operator, and no
annotations. They are coroutines, because kopf runs plain functions in other threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import kopf

from sponge_core.errors import SpongeError
from sponge_core.resource_names import GROUP, PLURAL, VERSION
from sponge_operator.clients.kube import Kube, collection_path, lean
from sponge_operator.clients.pulse import STREAM_S, Pulses
from sponge_operator.reconcile.operator import Operator
from sponge_operator.resources.manifest_parts import MANAGED_BY, MANAGED_BY_LABEL
from sponge_operator.resources.manifests import SERVICE_LABEL

__all__ = ["handlers", "watch", "watched_paths"]

CHILDREN = (("apps", "deployments", "Deployment"), ("", "services", "Service"), ("", "configmaps", "ConfigMap"))
FRONT_CHILDREN = (
    ("", "serviceaccounts", "ServiceAccount"),
    ("rbac.authorization.k8s.io", "rolebindings", "RoleBinding"),
    ("policy", "poddisruptionbudgets", "PodDisruptionBudget"),
)
"""Group, plural and kind of what the operator makes, of servers and of fronts alike; and of what fronts alone have."""

SELECTORS = {
    **dict.fromkeys((("", "pods"), ("apps", "replicasets")), SERVICE_LABEL),
    **{(group, plural): f"{MANAGED_BY_LABEL}={MANAGED_BY}" for group, plural, _ in (*CHILDREN, *FRONT_CHILDREN)},
}
"""By group and plural, so that the API server sends no others."""

ALWAYS_WATCHED = (
    *("SpongeService", "Pod", "Service", "ConfigMap", "Deployment", "ReplicaSet"),
    "HorizontalPodAutoscaler",
)
"""Kinds that every cluster has, also where there may be no fronts; VerticalPodAutoscalers may be unknown to it."""

WATCHER = "sponge-operator"
"""For kopf, which otherwise asks for the user's name; in a container the user may have none."""

EXIT_S = 5.0
"""For kopf to end its watches."""

PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0, 5.0)
"""Between kopf's attempts at one request."""


class _NoDiffs(kopf.DiffBaseStorage):  # type: ignore[misc]  # kopf has no types for mypy
    """For kopf, which otherwise copies each object that it sees, to know later what has changed since."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:  # noqa: ARG002
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


def watched_paths(namespaces: tuple[str, ...], *, fronts: bool) -> list[str]:
    """The path of each watch; no namespaces mean all. `fronts`: services may have them."""
    kinds = (*ALWAYS_WATCHED, *(kind for _, _, kind in FRONT_CHILDREN if fronts))
    return [collection_path(kind, namespace) for namespace in namespaces or (None,) for kind in kinds]


async def watch(
    operator: Operator,
    kube: Kube,
    pulses: Pulses,
    namespaces: tuple[str, ...],
    started: Callable[[], None],
    *,
    fronts: bool,
) -> None:
    """Runs kopf until cancelled.

    Args:
        pulses: hear of each request.
        fronts: services may have them; without, there are no rights to watch what they alone have.
        started: called once kopf runs, which takes over the process's signals and with them would end only itself.
    """
    stop = asyncio.Event()
    running = asyncio.ensure_future(
        kopf.operator(
            registry=handlers(operator, kube, pulses, started, fronts=fronts),
            standalone=True,
            identity=WATCHER,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
        )
    )
    try:
        await asyncio.wait({running})
        if (error := running.exception()) is not None:
            raise SpongeError(f"the cluster cannot be watched: {error}") from error
    finally:
        stop.set()
        await asyncio.wait({running}, timeout=EXIT_S)
        running.cancel()
        await asyncio.wait({running}, timeout=EXIT_S)


def handlers(
    operator: Operator, kube: Kube, pulses: Pulses, started: Callable[[], None], *, fronts: bool
) -> kopf.OperatorRegistry:
    """The handlers for `kopf.operator`; the arguments are those of `watch`."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        # The session reads a new token by itself. kopf would close it after a 401, while other watches use it.
        server, session = await kube.open_session(pulses.trace())
        return kopf.AiohttpSession(server=server, aiohttp_session=session)

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        for (group, plural), selector in SELECTORS.items():
            settings.watching.label_selectors[group, "v1", plural] = selector
        settings.watching.server_timeout = STREAM_S
        settings.watching.inactivity_timeout = STREAM_S + 5
        settings.watching.connect_timeout = 10.0
        settings.networking.request_timeout = 10.0
        settings.networking.error_backoffs = PAUSES_S
        # Neither namespaces nor CustomResourceDefinitions are read: the operator knows what it watches.
        settings.scanning.disabled = True
        settings.posting.enabled = False
        settings.persistence.diffbase_storage = _NoDiffs()
        settings.process.ultimate_exiting_timeout = None
        # This handler runs before kopf sets its own for signals, which it does in the same turn of the loop.
        asyncio.get_running_loop().call_soon(started)

    _watch(registry, operator, fronts)
    return registry


def _watch(registry: kopf.OperatorRegistry, operator: Operator, fronts: bool) -> None:
    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def service_seen(event: kopf.RawEvent, **_: Any) -> None:
        operator.service_seen(lean(event["object"]), gone=event["type"] == "DELETED")

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def pod_seen(event: kopf.RawEvent, **_: Any) -> None:
        operator.pod_seen(lean(event["object"]), gone=event["type"] == "DELETED")

    @kopf.on.event("apps", "v1", "replicasets", labels={SERVICE_LABEL: kopf.PRESENT}, registry=registry)
    async def replica_set_seen(event: kopf.RawEvent, **_: Any) -> None:
        operator.replica_set_seen(lean(event["object"]), gone=event["type"] == "DELETED")

    labels = {MANAGED_BY_LABEL: MANAGED_BY}

    def watch_children(group: str, plural: str, kind: str) -> None:
        @kopf.on.event(group, "v1", plural, labels=labels, registry=registry, id=f"{plural}_seen")
        async def child_seen(event: kopf.RawEvent, **_: Any) -> None:
            operator.child_seen(kind, lean(event["object"]), gone=event["type"] == "DELETED")

    for child in (*CHILDREN, *(FRONT_CHILDREN if fronts else ())):
        watch_children(*child)

    def watch_scalers(group: str, version: str, plural: str, kind: str) -> None:
        @kopf.on.event(group, version, plural, registry=registry, id=f"{plural}_seen")
        async def scaler_seen(event: kopf.RawEvent, **_: Any) -> None:
            operator.scaler_seen(kind, lean(event["object"]), gone=event["type"] == "DELETED")

    watch_scalers("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
    watch_scalers("autoscaling.k8s.io", "v1", "verticalpodautoscalers", "VerticalPodAutoscaler")
