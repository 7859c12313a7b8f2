"""Parts that the manifests of servers and of fronts have in common. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sponge_core.resource_names import GROUP, KIND, VERSION
from sponge_operator.resources.model import SpongeService

__all__ = [
    "MANAGED_BY",
    "MANAGED_BY_LABEL",
    "TOKEN_DIR",
    "TOKEN_MOUNT",
    "app_protocols",
    "container_security",
    "deployment_spec",
    "header",
    "instance_labels",
    "pod_security",
    "probe",
    "scrape_annotations",
    "spread",
    "token_volume",
]

MANAGED_BY = "sponge-operator"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
"""With that value on everything that the operator makes."""

TOKEN_DIR = "/var/run/sponge"
TOKEN_MOUNT: Mapping[str, Any] = {"name": "control-token", "mountPath": TOKEN_DIR, "readOnly": True}


def header(service: SpongeService, api_version: str, kind: str, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Type, name, labels and owner of an object that belongs to a service."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": service.namespace,
            "labels": dict(labels),
            "ownerReferences": [
                {
                    "apiVersion": f"{GROUP}/{VERSION}",
                    "kind": KIND,
                    "name": service.name,
                    "uid": service.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
    }


def instance_labels(service: SpongeService, program: str, label: str) -> dict[str, str]:
    """Labels of the pods of a program and of what belongs to them; `label` is the one that selects the pods."""
    return {
        "app.kubernetes.io/name": program,
        "app.kubernetes.io/instance": service.name,
        MANAGED_BY_LABEL: MANAGED_BY,
        label: service.name,
    }


def deployment_spec(replicas: int, selector: Mapping[str, str], template: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a Deployment in which a new pod becomes ready before an old one stops."""
    return {
        "replicas": replicas,
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": dict(selector)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": template,
    }


def probe(path: str, port: str, *, period_s: int, failures: int, scheme: str | None = None) -> dict[str, Any]:
    """A probe over HTTP of a named port; `scheme`: HTTPS where the port speaks TLS."""
    return {
        "httpGet": {"path": path, "port": port, **({} if scheme is None else {"scheme": scheme})},
        "periodSeconds": period_s,
        # A program that has used up its CPU answers late.
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def app_protocols(*, tls: bool) -> tuple[dict[str, str], dict[str, str]]:
    """What the ports of a Service for HTTP/1.1 and for gRPC speak, for meshes and gateways.

    Without h2c, they balance connections instead of calls.
    """
    if tls:
        return {"appProtocol": "https"}, {"appProtocol": "https"}
    return {}, {"appProtocol": "kubernetes.io/h2c"}


def scrape_annotations(port: int) -> dict[str, str]:
    """Annotations of a pod by which Prometheus finds its metrics."""
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(port),
        "prometheus.io/path": "/metrics",
    }


def pod_security() -> dict[str, Any]:
    """With `container_security`, what the Pod Security level "restricted" asks of a pod."""
    return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def container_security() -> dict[str, Any]:
    """See `pod_security`."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def spread(selector: Mapping[str, str]) -> list[dict[str, Any]]:
    """Pods of one template on as many nodes and zones as there are, without waiting for one."""
    soft = {
        "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": dict(selector)},
        "matchLabelKeys": ["pod-template-hash"],  # pods of the former template do not count during a rollout
    }
    return [{"topologyKey": key, **soft} for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")]


def token_volume(secret: str) -> dict[str, Any]:
    """The volume with the token of the servers' control ports, for `TOKEN_MOUNT`."""
    return {"name": TOKEN_MOUNT["name"], "secret": {"secretName": secret, "defaultMode": 0o444}}
