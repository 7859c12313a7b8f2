"""Looks at the Secrets of the user that pods mount, and says what is wrong with them."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from sponge_core.errors import SpongeError
from sponge_operator.clients.kube import Kube
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.mounted_secrets import CERT_FILE, KEY_FILE, MountedSecret
from sponge_operator.resources.obstacles import Obstacle
from sponge_system.tls_pairs import load_pair

__all__ = ["secret_obstacle"]


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
        if KEY_FILE in wanted.keys and (why := _unusable(data, name)) is not None:
            return Obstacle("SecretInvalid", why)
    return None


def _unusable(data: Mapping[str, Any], name: str) -> str | None:
    try:
        cert, key = (base64.b64decode(data[each]) for each in (CERT_FILE, KEY_FILE))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_pair(context, cert, key, f"{CERT_FILE} of {name}", f"{KEY_FILE} of {name}")
    except (SpongeError, ValueError) as error:
        return str(error)
    return None
