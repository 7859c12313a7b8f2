"""Looks at the Secrets of the user that pods mount, and says what is wrong with them."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from sponge_core.errors import SpongeError
from sponge_operator.clients.kube import Kube
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.mounted_secrets import MountedSecret
from sponge_operator.resources.obstacles import Obstacle
from sponge_system.tls_pairs import load_pair

__all__ = ["secret_obstacle"]

CERT, KEY = "tls.crt", "tls.key"


async def secret_obstacle(kube: Kube, service: SpongeService, secrets: Iterable[MountedSecret]) -> Obstacle | None:
    """Why pods cannot use their Secrets: the first that is missing, lacks a key, or has no certificate and key that
    belong together. Raises ApiError."""
    for wanted in secrets:
        name = f"Secret {wanted.secret_name!r}"
        secret = await kube.get("Secret", service.namespace, wanted.secret_name)
        if secret is None:
            message = f"{name} does not exist; create it in namespace {service.namespace!r}"
            return Obstacle("SecretMissing", message)
        data = secret.get("data") or {}
        for key in wanted.keys:
            if key not in data:
                return Obstacle("SecretMissing", f"{name} has no key {key!r}; add it")
        if KEY in wanted.keys and (why := _unusable(data, name)) is not None:
            return Obstacle("SecretInvalid", why)
    return None


def _unusable(data: Mapping[str, Any], name: str) -> str | None:
    try:
        cert, key = (base64.b64decode(data[each]) for each in (CERT, KEY))
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key, f"{CERT} of {name}", f"{KEY} of {name}")
    except (SpongeError, ValueError) as error:
        return str(error)
    return None
