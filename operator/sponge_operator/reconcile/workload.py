"""Applies the children of a SpongeService, and finds what prevents it from working."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sponge_operator.clients.kube import Kube
from sponge_operator.clients.trust import Trust
from sponge_operator.resources.manifests import (
    build_config_map,
    build_deployment,
    build_secret,
    build_service,
    secret_name,
    startup_milli,
    token_of,
)
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.mounted_secrets import mounted_secrets
from sponge_operator.settings import OperatorSettings

__all__ = ["Workload", "apply_workload", "find_conflict", "learn_certificate"]


@dataclass(frozen=True, slots=True)
class Workload:
    """What the reconciler needs to know of the applied children.

    Attributes:
        token: bearer token of the servers' control ports.
        deployment_generation: grows with each change of the Deployment's spec.
        missing_profile: message about a profile reference to something that does not exist; None if there is none.
        missing_secret: likewise about a Secret with a certificate or API keys.
    """

    token: str
    deployment_generation: int
    missing_profile: str | None
    missing_secret: str | None


async def apply_workload(kube: Kube, service: SpongeService, settings: OperatorSettings, trust: Trust) -> Workload:
    """Applies ConfigMap, Secret, Deployment and Service; `trust` learns the servers' certificate. Raises ApiError."""
    secret = await kube.get("Secret", service.namespace, secret_name(service))
    try:
        token = token_of(secret) if secret is not None else secrets.token_urlsafe(32)
    except (KeyError, ValueError):
        token = secrets.token_urlsafe(32)
    await kube.apply(build_secret(service, token))
    present = await kube.get("Deployment", service.namespace, service.name)
    startup = startup_milli(service.spec, present)
    await kube.apply(build_config_map(service, startup))
    deployment = await kube.apply(build_deployment(service, startup, settings.server_image, settings.server_template))
    await kube.apply(build_service(service))
    await learn_certificate(kube, service, trust)
    return Workload(
        token,
        deployment["metadata"]["generation"],
        await _missing_profile(kube, service),
        await _missing_secret(kube, service),
    )


async def learn_certificate(kube: Kube, service: SpongeService, trust: Trust) -> None:
    """Reads the certificate of the servers, if they have one, for connections to them. Raises ApiError."""
    if service.spec.tls is not None:
        trust.learn(await kube.get("Secret", service.namespace, service.spec.tls.secret_name))


async def _missing_profile(kube: Kube, service: SpongeService) -> str | None:
    reference = service.spec.profile.config_map
    if reference is None:
        return None
    config_map = await kube.get("ConfigMap", service.namespace, reference.name)
    if config_map is None:
        return f"ConfigMap {reference.name!r} does not exist; create it or change profile.configMap"
    if reference.key not in (config_map.get("data") or {}):
        return f"ConfigMap {reference.name!r} has no key {reference.key!r}; add it or set profile.configMap.key"
    return None


async def _missing_secret(kube: Kube, service: SpongeService) -> str | None:
    for wanted in mounted_secrets(service.spec):
        secret = await kube.get("Secret", service.namespace, wanted.secret_name)
        if secret is None:
            return f"Secret {wanted.secret_name!r} does not exist; create it in namespace {service.namespace!r}"
        for key in wanted.keys:
            if key not in (secret.get("data") or {}):
                return f"Secret {wanted.secret_name!r} has no key {key!r}; add it"
    return None


async def find_conflict(kube: Kube, service: SpongeService) -> str | None:
    """Message about another autoscaler of the same Deployment; None if there is none. Raises ApiError."""
    for kind, field in (("HorizontalPodAutoscaler", "scaleTargetRef"), ("VerticalPodAutoscaler", "targetRef")):
        for other in await kube.list(kind, service.namespace):
            target = (other.get("spec") or {}).get(field) or {}
            if target.get("kind") == "Deployment" and target.get("name") == service.name:
                name = other["metadata"]["name"]
                return f"{kind} {name!r} scales the Deployment {service.name!r} too; delete it or point it elsewhere"
    return None
