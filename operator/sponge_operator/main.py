# mypy: disable-error-code="untyped-decorator"
"""The kopf handlers of the operator; `reconcile` does the work.

Each service has a kopf daemon instead of change handlers. The daemon compares the present state with the desired one,
so kopf keeps no annotations on the objects, and a restarted operator needs no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from typing import Any

import kopf

from sponge_core.errors import SpongeError
from sponge_operator.context import EventType
from sponge_operator.reconcile.operator import Operator
from sponge_operator.resources.manifests import SERVICE_LABEL
from sponge_operator.resources.model import GROUP, PLURAL, VERSION
from sponge_operator.settings import OperatorSettings
from sponge_system.logs import set_up

__all__ = ["run"]

API_HOST, API_PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"

LABELLED = (("", "pods"), ("", "services"), ("", "configmaps"), ("apps", "deployments"), ("apps", "replicasets"))
"""Watched by their label, so that the API server sends no others."""

EXIT_S = 5.0
"""For a service's loop to end, including the restoring of sizes."""


def run(settings: OperatorSettings) -> None:
    """Runs the operator until a signal stops it.

    Raises:
        SpongeError: there is no cluster, the CRD is missing, or a port or file cannot be used.
    """
    # At `info`, kopf logs every connection and handler; what the operator does is in its own events.
    set_up(settings.log_level, "text", quiet=("kopf", "aiohttp.access") if settings.log_level == "info" else ())
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(settings))


async def _run(settings: OperatorSettings) -> None:
    async with Operator(settings) as operator:
        try:
            await kopf.operator(
                registry=_handlers(operator),
                standalone=True,
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
                liveness_endpoint=f"http://0.0.0.0:{settings.health_port}/healthz" if settings.health_port else None,
            )
        except OSError as error:
            raise SpongeError(f"--health-port {settings.health_port}: {error.strerror}; choose another") from None


def _handlers(operator: Operator) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        in_cluster = kopf.login_with_service_account(**arguments)
        if in_cluster is None or API_HOST not in os.environ:
            return kopf.login_with_kubeconfig(**arguments)
        # By address, so that the operator works in a cluster without working DNS.
        host, port = os.environ[API_HOST], os.environ[API_PORT]
        return dataclasses.replace(
            in_cluster, server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        )

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        for group, plural in LABELLED:
            settings.watching.label_selectors[group, "v1", plural] = SERVICE_LABEL
        settings.persistence.finalizer = f"{GROUP}/restore-size"
        settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"operator.{GROUP}")
        settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=f"operator.{GROUP}")
        settings.posting.reporting_component = "sponge-operator"
        settings.posting.event_name_prefix = "sponge-"
        settings.background.instant_exit_timeout = EXIT_S
        settings.process.ultimate_exiting_timeout = 4 * EXIT_S

    @kopf.daemon(GROUP, VERSION, PLURAL, registry=registry, cancellation_timeout=EXIT_S, backoff=EXIT_S)
    async def service(body: kopf.Body, stopped: kopf.DaemonStopped, **_: Any) -> None:
        def post(kind: EventType, reason: str, message: str) -> None:
            kopf.event(body, type=kind, reason=reason, message=message)

        async def deleted() -> bool:
            await stopped.wait()
            return kopf.DaemonStoppingReason.RESOURCE_DELETED in (stopped.reason or ())

        try:
            await operator.run_service(body, post, deleted)
        except SpongeError as error:
            raise kopf.TemporaryError(str(error), delay=30) from error

    _watch(registry, operator)
    return registry


def _watch(registry: kopf.OperatorRegistry, operator: Operator) -> None:
    """Passes events on. Every handler is a coroutine: kopf runs plain functions in other threads."""

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def service_seen(namespace: str, name: str, **_: Any) -> None:
        operator.service_seen(namespace, name)

    labels = {SERVICE_LABEL: kopf.PRESENT}

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def pod_seen(event: kopf.RawEvent, **_: Any) -> None:
        operator.pod_seen(event["object"], gone=event["type"] == "DELETED")

    @kopf.on.event("apps", "v1", "replicasets", labels=labels, registry=registry)
    async def replica_set_seen(event: kopf.RawEvent, **_: Any) -> None:
        operator.replica_set_seen(event["object"], gone=event["type"] == "DELETED")

    def watch_children(group: str, plural: str, kind: str) -> None:
        @kopf.on.event(group, "v1", plural, labels=labels, registry=registry, id=f"{plural}_seen")
        async def child_seen(event: kopf.RawEvent, **_: Any) -> None:
            operator.child_seen(kind, event["object"], gone=event["type"] == "DELETED")

    watch_children("apps", "deployments", "Deployment")
    watch_children("", "services", "Service")
    watch_children("", "configmaps", "ConfigMap")

    def watch_scalers(group: str, version: str, plural: str, kind: str) -> None:
        @kopf.on.event(group, version, plural, registry=registry, id=f"{plural}_seen")
        async def scaler_seen(event: kopf.RawEvent, **_: Any) -> None:
            operator.scaler_seen(kind, event["object"], gone=event["type"] == "DELETED")

    watch_scalers("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
    watch_scalers("autoscaling.k8s.io", "v1", "verticalpodautoscalers", "VerticalPodAutoscaler")
