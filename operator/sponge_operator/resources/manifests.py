"""Manifests of the objects that a SpongeService owns, for server-side apply. Pure.

A changed pod template replaces the pods, so it holds nothing that changes often. It never holds the size in force. The
range of sizes and the model's source reach new pods through a ConfigMap, and running pods through their control port.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sponge_core.quantities import cores_text, cpu_quantity, parse_cpu_milli
from sponge_core.resource_names import GROUP
from sponge_operator.resources.containers import container_limit, container_spec
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
from sponge_operator.resources.merge import strategic_merge
from sponge_operator.resources.model import ServiceSpec, SpongeService
from sponge_operator.resources.mounted_secrets import mounted_secrets
from sponge_operator.resources.profile_store import STORE_DIR, STORE_VARIABLE, store_name, store_prefix
from sponge_operator.resources.source_entries import SOURCE_VARIABLE, source_data, source_variables

__all__ = [
    "CONTAINER",
    "CONTROL_PORT",
    "DEFAULT_STARTUP_MILLI",
    "GRPC_PORT",
    "HTTP_PORT",
    "SERVICE_LABEL",
    "SOURCE_KEY_ANNOTATION",
    "STARTUP_ANNOTATION",
    "TEMPLATE_ANNOTATION",
    "build_config_map",
    "build_deployment",
    "build_secret",
    "build_service",
    "config_map_name",
    "control_scheme",
    "pod_labels",
    "resize_patch",
    "secret_name",
    "startup_milli",
    "template_hash",
    "token_of",
]

CONTAINER = "server"
HTTP_PORT = 8080
GRPC_PORT = 8081
CONTROL_PORT = 9090
SERVICE_LABEL = f"{GROUP}/service"
STARTUP_ANNOTATION = f"{GROUP}/startup-cpu"
PROFILE_ANNOTATION = f"{GROUP}/profile-hash"
SCHEME_ANNOTATION = f"{GROUP}/control-scheme"
"""On pods whose control port speaks https; pods from before TLS was set up go on with http until they are replaced."""

SOURCE_KEY_ANNOTATION = f"{GROUP}/source-key"
"""On the Deployment: the key of the source in the ConfigMap that its pods start with."""

TEMPLATE_ANNOTATION = f"{GROUP}/template-hash"
"""On the Deployment: stands for the pod template as the operator has made it; the source itself is not in it."""

MODEL_CONTROL = "SPONGE_SERVE_MODEL_CONTROL"

DEFAULT_STARTUP_MILLI = 1000
"""Loading a model takes tens of seconds on less than a core, and almost every node has a whole one."""

PROFILE_DIR = "/etc/sponge/profile"
PROFILE_KEY = "profile.yaml"


def secret_name(service: SpongeService) -> str:
    return f"{service.name}-sponge-control"


def config_map_name(service: SpongeService) -> str:
    return f"{service.name}-sponge"


def resize_patch(container: str, milli: int | None, memory: int | None = None) -> dict[str, Any]:
    """The strategic merge patch that sets a container's CPU or memory, for request and limit alike; None: as it is."""
    size = {} if milli is None else {"cpu": cpu_quantity(milli)}
    if memory is not None:
        size["memory"] = str(memory)
    return {"spec": {"containers": [{"name": container, "resources": {"requests": size, "limits": size}}]}}


def pod_labels(service: SpongeService) -> dict[str, str]:
    """Labels of the pods and of everything that belongs to them."""
    return instance_labels(service, "sponge-server", SERVICE_LABEL)


def control_scheme(pod: Mapping[str, Any]) -> str:
    """How the control port of a pod is spoken to: http or https."""
    return str((pod["metadata"].get("annotations") or {}).get(SCHEME_ANNOTATION, "http"))


def startup_milli(spec: ServiceSpec, deployment: Mapping[str, Any] | None) -> int:
    """The size that new pods are scheduled with.

    What `cpu.startup` has beyond the range comes later, in place: no pod is to wait for a node that has it. The size in
    the present Deployment is kept unless it is above the range, so that a changed range alone does not replace the
    pods. A pod below the range grows as soon as it is ready.
    """
    if spec.cpu.startup is not None:
        return min(spec.cpu.startup, spec.cpu.max)
    if deployment is not None:
        # Somebody may have removed the limit, which is undone like any other change.
        limit = container_limit(container_spec(deployment["spec"]["template"], CONTAINER), "cpu")
        if limit is not None and parse_cpu_milli(limit) <= spec.cpu.max:
            return parse_cpu_milli(limit)
    return max(spec.cpu.min, min(spec.cpu.max, DEFAULT_STARTUP_MILLI))


def build_config_map(service: SpongeService, startup: int, sources: Mapping[str, str]) -> dict[str, Any]:
    """The range of sizes and the sources for new pods, and the profile if the SpongeService contains it.

    Args:
        sources: by the key that a pod template names.
    """
    cpu, profile = service.spec.cpu, service.spec.profile
    data = {
        "startup-cores": cores_text(max(cpu.min, min(cpu.max, startup))),
        "min-cores": cores_text(cpu.min),
        "max-cores": cores_text(cpu.max),
        "step-cores": cores_text(cpu.step),
        **source_data(sources),
    }
    if profile.inline is not None:
        # JSON is valid YAML, and its text does not depend on the style of a library.
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
    """The token in a Secret from `build_secret`. Raises KeyError if there is none."""
    return base64.b64decode(secret["data"]["token"]).decode()


def build_service(service: SpongeService) -> dict[str, Any]:
    """The Service with the ports http and grpc for clients, and control for Prometheus and people."""
    plain, h2c = app_protocols(tls=service.spec.tls is not None)
    return {
        **_header(service, "v1", "Service", service.name),
        "spec": {
            "selector": {SERVICE_LABEL: service.name},
            "ports": [
                {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP", **plain},
                {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "protocol": "TCP", **h2c},
                {"name": "control", "port": CONTROL_PORT, "targetPort": "control", "protocol": "TCP", **plain},
            ],
        },
    }


def build_deployment(
    service: SpongeService,
    startup: int,
    image: str,
    server_template: Mapping[str, Any],
    source_key: str,
    replicas: int | None = None,
) -> dict[str, Any]:
    """The Deployment of a service.

    Args:
        startup: millicores of a new pod, for request and limit.
        image: of the server's container, unless a template names another one.
        server_template: the operator's partial pod template; the service's own is merged over it.
        source_key: of the source in the ConfigMap; another one replaces the pods.
        replicas: the number of pods; None: those of a new service.
    """
    template = strategic_merge(_pod_template(service, image, source_key), server_template)
    template = strategic_merge(template, service.spec.template)
    template["spec"].setdefault("topologySpreadConstraints", spread({SERVICE_LABEL: service.name}))
    # No template may remove what the operator depends on.
    used = next(str(c["image"]) for c in template["spec"]["containers"] if c["name"] == CONTAINER)
    template = strategic_merge(template, _essentials(service, startup, used))
    made = _header(service, "apps/v1", "Deployment", service.name)
    made["metadata"]["annotations"] = {SOURCE_KEY_ANNOTATION: source_key, TEMPLATE_ANNOTATION: template_hash(template)}
    number = service.spec.replicas.at_first if replicas is None else replicas
    return {**made, "spec": deployment_spec(number, {SERVICE_LABEL: service.name}, template)}


def template_hash(template: Mapping[str, Any]) -> str:
    """Stands for a pod template."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16]


def _header(service: SpongeService, api_version: str, kind: str, name: str) -> dict[str, Any]:
    return header(service, api_version, kind, name, pod_labels(service))


def _essentials(service: SpongeService, startup: int, image: str) -> dict[str, Any]:
    spec = service.spec
    prefix = f"{STORE_DIR}/{store_prefix(image)}"
    store = {"env": [{"name": STORE_VARIABLE, "value": prefix}]} if spec.profile.is_measured else {}
    size = {
        "cpu": cpu_quantity(startup),
        "memory": str(spec.memory.base + spec.memory.per_batch_item * spec.batch.max),
    }
    annotations = {STARTUP_ANNOTATION: cpu_quantity(startup)}
    if spec.tls is not None:
        annotations[SCHEME_ANNOTATION] = "https"
    return {
        "metadata": {"labels": pod_labels(service), "annotations": annotations},
        "spec": {
            "containers": [
                {
                    "name": CONTAINER,
                    **store,
                    # Request equals limit, for the QoS class Guaranteed.
                    "resources": {"requests": size, "limits": dict(size)},
                    "resizePolicy": [
                        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
                        {"resourceName": "memory", "restartPolicy": "NotRequired"},
                    ],
                }
            ]
        },
    }


def _pod_template(service: SpongeService, image: str, source_key: str) -> dict[str, Any]:
    mounted = list(_mounted(service))
    annotations, profile = scrape_annotations(CONTROL_PORT), service.spec.profile
    if service.spec.tls is not None:
        annotations["prometheus.io/scheme"] = "https"
    if profile.inline is not None:
        text = json.dumps(profile.inline, sort_keys=True)
        annotations[PROFILE_ANNOTATION] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {
        "metadata": {"annotations": annotations},
        "spec": {
            "automountServiceAccountToken": False,
            # Links of a Service named sponge-serve would set SPONGE_SERVE_PORT, an option of `sponge serve`.
            "enableServiceLinks": False,
            # The server accepts requests for 3 s more, then drains for up to 30 s.
            "terminationGracePeriodSeconds": 45,
            "securityContext": pod_security(),
            "volumes": [volume for volume, _ in mounted],
            "containers": [_container(service, image, source_key, [mount for _, mount in mounted])],
        },
    }


def _mounted(service: SpongeService) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The volumes of the pod, each with its mount in the server's container."""
    yield token_volume(secret_name(service)), TOKEN_MOUNT
    # Lanes pass tensors in shared memory, and the default /dev/shm has only 64 MiB.
    memory = {"medium": "Memory", "sizeLimit": "512Mi"}
    yield {"name": "shared-memory", "emptyDir": memory}, {"name": "shared-memory", "mountPath": "/dev/shm"}
    for secret in mounted_secrets(service.spec):
        yield secret.volume, secret.mount
    profile = _profile_volume(service)
    if profile is not None:
        mount = {"name": "profile", "mountPath": PROFILE_DIR, "readOnly": True}
        yield {"name": "profile", "configMap": profile}, mount
    if service.spec.profile.is_measured:
        # Pods start without it, and later ones find there what an earlier one has measured.
        store = {"name": store_name(service), "optional": True}
        mount = {"name": "profile-store", "mountPath": STORE_DIR, "readOnly": True}
        yield {"name": "profile-store", "configMap": store}, mount


def _container(
    service: SpongeService, image: str, source_key: str, mounts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    scheme = None if service.spec.tls is None else "HTTPS"
    return {
        "name": CONTAINER,
        "image": image,
        "command": ["sponge"],
        "args": _arguments(service),
        "env": [
            _variable(service, "SPONGE_STARTUP_CORES", "startup-cores"),
            _variable(service, "SPONGE_MIN_CORES", "min-cores"),
            _variable(service, "SPONGE_MAX_CORES", "max-cores"),
            _variable(service, "SPONGE_STEP_CORES", "step-cores"),
            *(_variable(service, *pair) for pair in source_variables(source_key)),
            # Not as an argument: a server of an earlier version would refuse it.
            *([] if service.spec.model.variants else [{"name": MODEL_CONTROL, "value": "control"}]),
        ],
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"},
        ],
        "volumeMounts": list(mounts),
        # The control port answers even when the data port sheds requests. Importing torch and measuring a profile take
        # long at a small size.
        "startupProbe": probe("/healthz", "control", scheme=scheme, period_s=1, failures=600),
        "readinessProbe": probe("/readyz", "control", scheme=scheme, period_s=1, failures=6),
        "livenessProbe": probe("/healthz", "control", scheme=scheme, period_s=10, failures=3),
        "securityContext": container_security(),
    }


def _arguments(service: SpongeService) -> list[str]:
    spec = service.spec
    arguments = {
        "--model": f"{spec.model.name}=$({SOURCE_VARIABLE})",
        "--slo-ms": f"{spec.slo.latency * 1000:g}",
        "--cores": "$(SPONGE_STARTUP_CORES)",
        "--min-cores": "$(SPONGE_MIN_CORES)",
        "--max-cores": "$(SPONGE_MAX_CORES)",
        "--step-cores": "$(SPONGE_STEP_CORES)",
        "--max-batch": str(spec.batch.max),
        "--profile": spec.profile.shipped if _profile_volume(service) is None else f"{PROFILE_DIR}/{PROFILE_KEY}",
        "--host": "::",
        "--http-port": str(HTTP_PORT),
        "--grpc-port": str(GRPC_PORT),
        "--control-port": str(CONTROL_PORT),
        "--control-token-file": f"{TOKEN_DIR}/token",
        # The endpoints of a Service are updated some time after a pod begins to stop.
        "--drain-delay-s": "3",
    }
    classes = [("--slo-class", f"{slo.name}={slo.latency * 1000:g}") for slo in spec.slo.classes]
    options = [word for pair in (*arguments.items(), *classes, *_variants(spec)) for word in pair]
    return ["serve", *options, *(word for secret in mounted_secrets(spec) for word in secret.arguments)]


def _variants(spec: ServiceSpec) -> list[tuple[str, str]]:
    """The options of variants and accuracies; empty without variants."""
    model, slo = spec.model, spec.slo
    if not model.variants:
        return []
    accuracies = {model.name: model.accuracy, **{variant.name: variant.accuracy for variant in model.variants}}
    floors = {"default": slo.accuracy_floor, **{each.name: each.accuracy_floor for each in slo.classes}}
    return [
        *(("--variant", f"{variant.name}={variant.source}") for variant in model.variants),
        *(("--accuracy", f"{name}={value}") for name, value in accuracies.items() if value is not None),
        *(("--accuracy-floor", f"{name}={value}") for name, value in floors.items() if value is not None),
    ]


def _profile_volume(service: SpongeService) -> dict[str, Any] | None:
    profile = service.spec.profile
    if profile.inline is not None:
        return {"name": config_map_name(service), "items": [{"key": PROFILE_KEY, "path": PROFILE_KEY}]}
    if profile.config_map is not None:
        return {"name": profile.config_map.name, "items": [{"key": profile.config_map.key, "path": PROFILE_KEY}]}
    return None


def _variable(service: SpongeService, name: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"configMapKeyRef": {"name": config_map_name(service), "key": key}}}
