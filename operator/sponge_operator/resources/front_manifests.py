"""Manifests of a service's front: Envoy and the picker in one pod, and what that pod needs. Pure.

These objects carry a label of their own, because the service's label makes a pod one of its servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sponge_core.resource_names import GROUP
from sponge_operator.resources.manifest_parts import (
    TOKEN_DIR,
    TOKEN_MOUNT,
    app_protocols,
    container_security,
    deployment_spec,
    header,
    instance_labels,
    pod_security,
    probe,
    scrape_annotations,
    spread,
    token_volume,
)
from sponge_operator.resources.manifests import GRPC_PORT, HTTP_PORT, secret_name
from sponge_operator.resources.merge import strategic_merge
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.mounted_secrets import MountedSecret, front_secrets

__all__ = ["FRONT_LABEL", "KINDS", "FrontSettings", "account_of", "build_front", "front_name"]

FRONT_LABEL = f"{GROUP}/front"
ACCOUNT_ANNOTATION = f"{GROUP}/account-uid"
"""On the pods: a pod's token is refused once its ServiceAccount is another, so the pods must be others, too."""

ENVOY_PORT, PICKER_PORT = 9092, 9093
"""Of their probes and metrics."""

DIRECTORY = "/run/sponge-front"
DIRECTORY_MOUNT: Mapping[str, Any] = {"name": "front", "mountPath": DIRECTORY}

DRAIN_S = 15
"""How long a front that stops goes on: clients leave it, and the endpoints of its Service are updated, meanwhile."""

KINDS = ("ServiceAccount", "RoleBinding", "Service", "PodDisruptionBudget", "Deployment")
"""In the order of their making; the Deployment is the last, so that it shows whether there may be others."""

USER = 65532


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """What all fronts have in common.

    Attributes:
        role: name of the ClusterRole that lets a picker follow EndpointSlices; empty: there may be no fronts.
        picker: an image with the command `sponge` and the extra `front`.
        envoy: an image with the command `envoy`.
        template: partial pod template, merged over the generated one.
    """

    role: str = "sponge-front"
    picker: str = "sponge-operator:latest"
    envoy: str = "envoyproxy/envoy:distroless-v1.40.0"
    template: Mapping[str, Any] = field(default_factory=dict)


def front_name(service: SpongeService) -> str:
    """The name of all objects of the front."""
    return f"{service.name}-front"


def account_of(deployment: Mapping[str, Any] | None) -> str:
    """The uid of the ServiceAccount that the pods of a Deployment of fronts were made for; empty if not known."""
    if deployment is None:
        return ""
    return str((deployment["spec"]["template"]["metadata"].get("annotations") or {}).get(ACCOUNT_ANNOTATION, ""))


def build_front(kind: str, service: SpongeService, settings: FrontSettings, account: str = "") -> dict[str, Any]:
    """The object of one of `KINDS`, for a service whose spec has a front; `account` is its ServiceAccount's uid."""
    match kind:
        case "ServiceAccount":
            return _header(service, "v1", kind)
        case "RoleBinding":
            return {
                **_header(service, "rbac.authorization.k8s.io/v1", kind),
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": settings.role},
                "subjects": [
                    {"kind": "ServiceAccount", "name": front_name(service), "namespace": service.namespace},
                ],
            }
        case "Service":
            return {**_header(service, "v1", kind), "spec": _service_spec(service)}
        case "PodDisruptionBudget":
            spec = {"maxUnavailable": 1, "selector": {"matchLabels": {FRONT_LABEL: service.name}}}
            return {**_header(service, "policy/v1", kind), "spec": spec}
        case _:
            return {**_header(service, "apps/v1", "Deployment"), "spec": _deployment_spec(service, settings, account)}


def _labels(service: SpongeService) -> dict[str, str]:
    return instance_labels(service, "sponge-front", FRONT_LABEL)


def _header(service: SpongeService, api_version: str, kind: str) -> dict[str, Any]:
    return header(service, api_version, kind, front_name(service), _labels(service))


def _service_spec(service: SpongeService) -> dict[str, Any]:
    plain, h2c = app_protocols(tls=bool(front_secrets(service.spec).clients))
    return {
        "selector": {FRONT_LABEL: service.name},
        "ports": [
            {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP", **plain},
            {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "protocol": "TCP", **h2c},
        ],
    }


def _deployment_spec(service: SpongeService, settings: FrontSettings, account: str) -> dict[str, Any]:
    assert service.spec.front is not None
    template = strategic_merge(_pod_template(service, settings), settings.template)
    own = {"metadata": {"labels": _labels(service), "annotations": {ACCOUNT_ANNOTATION: account}}}
    selector = {FRONT_LABEL: service.name}
    return deployment_spec(service.spec.front.replicas, selector, strategic_merge(template, own))


def _pod_template(service: SpongeService, settings: FrontSettings) -> dict[str, Any]:
    prepare, picker = _pickers(service, settings)
    return {
        "metadata": {"annotations": scrape_annotations(PICKER_PORT)},
        "spec": {
            "serviceAccountName": front_name(service),
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 3 * DRAIN_S,
            "securityContext": {**pod_security(), "runAsUser": USER, "runAsGroup": USER},
            # Two fronts on one node would go together.
            "topologySpreadConstraints": spread({FRONT_LABEL: service.name}),
            "volumes": [
                {"name": DIRECTORY_MOUNT["name"], "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
                token_volume(secret_name(service)),
                *(secret.volume for secret in front_secrets(service.spec).all),
            ],
            "initContainers": [prepare],
            "containers": [picker, _envoy(service, settings)],
        },
    }


def _pickers(service: SpongeService, settings: FrontSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The containers that run the picker's image: one writes Envoy's configuration, then one picks pods."""
    place, secrets = ["--directory", DIRECTORY], front_secrets(service.spec)
    wake = [] if service.spec.idle.remove_after is None else ["--wake"]
    both = {
        "image": settings.picker,
        "command": ["sponge"],
        "resources": {"requests": {"cpu": "100m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": container_security(),
    }
    prepare = {
        "name": "prepare",
        **both,
        "args": ["front", "envoy-config", *place, "--write", *_arguments(secrets.all)],
        "volumeMounts": [DIRECTORY_MOUNT, *(secret.mount for secret in secrets.all)],
        # A Secret that it cannot use.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    picker = {
        "name": "picker",
        **both,
        "args": [
            *("front", "run", *place, "--service", service.name, "--token-file", f"{TOKEN_DIR}/token"),
            *("--status-port", str(PICKER_PORT), "--drain-s", str(DRAIN_S)),
            *wake,
            *_arguments(secrets.pods),
        ],
        "ports": [{"name": "picker", "containerPort": PICKER_PORT, "protocol": "TCP"}],
        "volumeMounts": [DIRECTORY_MOUNT, TOKEN_MOUNT, *(secret.mount for secret in secrets.pods)],
        # No readiness: without the picker, Envoy serves on.
        "startupProbe": probe("/healthz", "picker", period_s=1, failures=60),
        "livenessProbe": probe("/healthz", "picker", period_s=5, failures=3),
    }
    return prepare, picker


def _arguments(secrets: Iterable[MountedSecret]) -> list[str]:
    return [word for secret in secrets for word in secret.arguments]


def _envoy(service: SpongeService, settings: FrontSettings) -> dict[str, Any]:
    secrets = front_secrets(service.spec).clients
    # By TLS, because Envoy without a certificate that it can use calls itself ready.
    scheme = "HTTPS" if secrets else None
    return {
        "name": "envoy",
        "image": settings.envoy,
        "command": ["envoy"],
        "args": [
            *("--config-path", f"{DIRECTORY}/envoy.json", "--concurrency", "2"),
            # It would log a line for each request that a missing picker is not asked about.
            *("--log-level", "warning", "--component-log-level", "ext_proc:error"),
        ],
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "envoy", "containerPort": ENVOY_PORT, "protocol": "TCP"},
        ],
        "volumeMounts": [DIRECTORY_MOUNT, *(secret.mount for secret in secrets)],
        "startupProbe": probe("/ready", "envoy", period_s=1, failures=60, scheme=scheme),
        "readinessProbe": probe("/ready", "envoy", period_s=2, failures=2, scheme=scheme),
        # The picker asks it to drain; Envoy by itself would end at once, with its requests.
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_S + 2}}},
        "resources": {"requests": {"cpu": "100m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": container_security(),
    }
