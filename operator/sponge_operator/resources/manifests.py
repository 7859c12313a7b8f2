"""The objects that a SpongeService owns, as plain manifests for server-side apply. Pure: specs in, dictionaries out.

What changes often stays out of the pod template, because a changed template rolls the pods: a size in force is never
written here, and the range of sizes reaches new pods through a ConfigMap and running ones through their control port.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sponge_core.quantities import cores_text, cpu_quantity, parse_cpu_milli
from sponge_operator.resources.merge import strategic_merge
from sponge_operator.resources.model import GROUP, KIND, VERSION, ServiceSpec, SpongeService

__all__ = [
    "CONTAINER",
    "CONTROL_PORT",
    "GRPC_PORT",
    "HTTP_PORT",
    "MANAGED_BY",
    "SERVICE_LABEL",
    "STARTUP_ANNOTATION",
    "build_config_map",
    "build_deployment",
    "build_secret",
    "build_service",
    "config_map_name",
    "pod_labels",
    "secret_name",
    "startup_milli",
    "token_of",
]

CONTAINER = "server"
HTTP_PORT = 8080
GRPC_PORT = 8081
CONTROL_PORT = 9090
MANAGED_BY = "sponge-operator"
SERVICE_LABEL = f"{GROUP}/service"
STARTUP_ANNOTATION = f"{GROUP}/startup-cpu"
PROFILE_ANNOTATION = f"{GROUP}/profile-hash"
DEFAULT_STARTUP_MILLI = 1000
"""Loading a model on less than a core takes tens of seconds; a whole core fits almost any node."""

TOKEN_DIR = "/var/run/sponge"
PROFILE_DIR = "/etc/sponge/profile"
PROFILE_KEY = "profile.yaml"


def secret_name(service: SpongeService) -> str:
    return f"{service.name}-sponge-control"


def config_map_name(service: SpongeService) -> str:
    return f"{service.name}-sponge"


def pod_labels(service: SpongeService) -> dict[str, str]:
    """The labels by which the operator finds its pods, and people find what belongs together."""
    return {
        "app.kubernetes.io/name": "sponge-server",
        "app.kubernetes.io/instance": service.name,
        "app.kubernetes.io/managed-by": MANAGED_BY,
        SERVICE_LABEL: service.name,
    }


def startup_milli(spec: ServiceSpec, deployment: Mapping[str, Any] | None) -> int:
    """The size that new pods start with.

    The present Deployment's size stays while it is not above the range, so that a changed range alone does not roll the
    pods; below the range a pod grows as soon as it is ready.
    """
    if spec.cpu.startup is not None:
        return spec.cpu.startup
    if deployment is not None:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            if container["name"] == CONTAINER:
                present = parse_cpu_milli(container["resources"]["limits"]["cpu"])
                if present <= spec.cpu.max:
                    return present
    return max(spec.cpu.min, min(spec.cpu.max, DEFAULT_STARTUP_MILLI))


def build_config_map(service: SpongeService, startup: int) -> dict[str, Any]:
    """The range of sizes for pods to come, and the profile if it is written in the manifest."""
    cpu, profile = service.spec.cpu, service.spec.profile
    data = {
        "startup-cores": cores_text(max(cpu.min, min(cpu.max, startup))),
        "min-cores": cores_text(cpu.min),
        "max-cores": cores_text(cpu.max),
        "step-cores": cores_text(cpu.step),
    }
    if profile.inline is not None:
        # JSON is YAML, and its text does not depend on a library's style.
        data[PROFILE_KEY] = json.dumps(profile.inline, sort_keys=True)
    return {**_header(service, "v1", "ConfigMap", config_map_name(service)), "data": data}


def build_secret(service: SpongeService, token: str) -> dict[str, Any]:
    """The bearer token of the servers' control ports."""
    return {
        **_header(service, "v1", "Secret", secret_name(service)),
        "type": "Opaque",
        "data": {"token": base64.b64encode(token.encode()).decode()},
    }


def token_of(secret: Mapping[str, Any]) -> str:
    """The token of a Secret that `build_secret` made; raises KeyError if it has none."""
    return base64.b64decode(secret["data"]["token"]).decode()


def build_service(service: SpongeService) -> dict[str, Any]:
    """The address for clients (http, grpc), and for scrapers and people (control)."""
    return {
        **_header(service, "v1", "Service", service.name),
        "spec": {
            "selector": {SERVICE_LABEL: service.name},
            "ports": [
                {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP"},
                # Without the protocol's name a mesh or a gateway would balance its few long connections, not its calls.
                {
                    "name": "grpc",
                    "port": GRPC_PORT,
                    "targetPort": "grpc",
                    "protocol": "TCP",
                    "appProtocol": "kubernetes.io/h2c",
                },
                {"name": "control", "port": CONTROL_PORT, "targetPort": "control", "protocol": "TCP"},
            ],
        },
    }


def build_deployment(
    service: SpongeService, startup: int, image: str, server_template: Mapping[str, Any]
) -> dict[str, Any]:
    """The pods of a service, at the size they start with.

    Args:
        startup: millicores of a new pod, as request and as limit.
        image: of the server's container, unless a template names another.
        server_template: the operator's partial pod template; the service's own goes over it.
    """
    template = strategic_merge(_pod_template(service, image), server_template)
    template = strategic_merge(template, service.spec.template)
    # No template may take away what the operator works by.
    template = strategic_merge(template, _essentials(service, startup))
    return {
        **_header(service, "apps/v1", "Deployment", service.name),
        "spec": {
            "replicas": service.spec.replicas.max,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {SERVICE_LABEL: service.name}},
            # A new version becomes ready before the old one leaves; it starts small, so it needs little room beside it.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template,
        },
    }


def _header(service: SpongeService, api_version: str, kind: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": service.namespace,
            "labels": pod_labels(service),
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


def _essentials(service: SpongeService, startup: int) -> dict[str, Any]:
    spec = service.spec
    size = {
        "cpu": cpu_quantity(startup),
        "memory": str(spec.memory.base + spec.memory.per_batch_item * spec.batch.max),
    }
    return {
        "metadata": {"labels": pod_labels(service), "annotations": {STARTUP_ANNOTATION: cpu_quantity(startup)}},
        "spec": {
            "containers": [
                {
                    "name": CONTAINER,
                    # Guaranteed QoS; request and limit move together.
                    "resources": {"requests": size, "limits": dict(size)},
                    "resizePolicy": [
                        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
                        {"resourceName": "memory", "restartPolicy": "NotRequired"},
                    ],
                }
            ]
        },
    }


def _pod_template(service: SpongeService, image: str) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": "control-token", "secret": {"secretName": secret_name(service), "defaultMode": 0o444}},
        # The lanes pass tensors in shared memory; a container's own /dev/shm has only 64 MiB.
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "control-token", "mountPath": TOKEN_DIR, "readOnly": True},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    annotations = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(CONTROL_PORT),
        "prometheus.io/path": "/metrics",
    }
    profile = service.spec.profile
    source = _profile_volume(service)
    if source is not None:
        volumes.append({"name": "profile", "configMap": source})
        mounts.append({"name": "profile", "mountPath": PROFILE_DIR, "readOnly": True})
    if profile.inline is not None:
        text = json.dumps(profile.inline, sort_keys=True)
        annotations[PROFILE_ANNOTATION] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {
        "metadata": {"annotations": annotations},
        "spec": {
            "automountServiceAccountToken": False,
            # Links of a Service called sponge-serve would set SPONGE_SERVE_PORT, which `sponge serve` reads as an
            # option.
            "enableServiceLinks": False,
            # The server takes requests for 3 s more, then drains for up to 30 s.
            "terminationGracePeriodSeconds": 45,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": volumes,
            "containers": [
                {
                    "name": CONTAINER,
                    "image": image,
                    "command": ["sponge"],
                    "args": _arguments(service),
                    "env": [
                        _range_variable(service, "SPONGE_STARTUP_CORES", "startup-cores"),
                        _range_variable(service, "SPONGE_MIN_CORES", "min-cores"),
                        _range_variable(service, "SPONGE_MAX_CORES", "max-cores"),
                        _range_variable(service, "SPONGE_STEP_CORES", "step-cores"),
                    ],
                    "ports": [
                        {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
                        {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
                        {"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"},
                    ],
                    "volumeMounts": mounts,
                    # Importing torch and measuring a profile take their time on a small size.
                    "startupProbe": _probe("/healthz", period_s=1, failures=600),
                    "readinessProbe": _probe("/readyz", period_s=2, failures=3),
                    "livenessProbe": _probe("/healthz", period_s=10, failures=3),
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def _arguments(service: SpongeService) -> list[str]:
    spec = service.spec
    arguments = {
        "--model": f"{spec.model.name}={spec.model.source}",
        "--slo-ms": f"{spec.slo.latency * 1000:g}",
        "--cores": "$(SPONGE_STARTUP_CORES)",
        "--min-cores": "$(SPONGE_MIN_CORES)",
        "--max-cores": "$(SPONGE_MAX_CORES)",
        "--step-cores": "$(SPONGE_STEP_CORES)",
        "--max-batch": str(spec.batch.max),
        "--profile": spec.profile.shipped if _profile_volume(service) is None else f"{PROFILE_DIR}/{PROFILE_KEY}",
        "--host": "0.0.0.0",
        "--http-port": str(HTTP_PORT),
        "--grpc-port": str(GRPC_PORT),
        "--control-port": str(CONTROL_PORT),
        "--control-token-file": f"{TOKEN_DIR}/token",
        # The endpoints of a Service follow a pod's end with some delay.
        "--drain-delay-s": "3",
    }
    classes = [("--slo-class", f"{slo.name}={slo.latency * 1000:g}") for slo in spec.slo.classes]
    return ["serve", *(word for pair in (*arguments.items(), *classes) for word in pair)]


def _profile_volume(service: SpongeService) -> dict[str, Any] | None:
    profile = service.spec.profile
    if profile.inline is not None:
        return {"name": config_map_name(service), "items": [{"key": PROFILE_KEY, "path": PROFILE_KEY}]}
    if profile.config_map is not None:
        return {"name": profile.config_map.name, "items": [{"key": profile.config_map.key, "path": PROFILE_KEY}]}
    return None


def _range_variable(service: SpongeService, name: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"configMapKeyRef": {"name": config_map_name(service), "key": key}}}


def _probe(path: str, *, period_s: int, failures: int) -> dict[str, Any]:
    # The control port name, so that a probe is not refused where a request would not be. A throttled pod answers late.
    return {
        "httpGet": {"path": path, "port": "control"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
