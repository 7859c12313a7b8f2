"""Looks at the Secrets of the user that pods mount, and says what is wrong with them."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from sponge_core.errors import SpongeError
from sponge_operator.clients.kube import Kube
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.mounted_secrets import CA_FILE, CERT_FILE, KEY_FILE, MountedSecret
from sponge_operator.resources.obstacles import Obstacle
from sponge_system.tls_pairs import load_authorities, load_pair

__all__ = ["secret_obstacle"]


async def secret_obstacle(kube: Kube, service: SpongeService, secrets: Iterable[MountedSecret]) -> Obstacle | None:
    """Why pods cannot use their Secrets: the first that is missing, lacks a key, or has no certificate and key that
    belong together, or no authorities. Raises ApiError."""
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
        if (why := _unusable(data, wanted.keys, name)) is not None:
            return Obstacle("SecretInvalid", why)
    return None


def _unusable(data: Mapping[str, Any], keys: Iterable[str], name: str) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        pem = {key: base64.b64decode(data[key]) for key in keys}
        if KEY_FILE in pem:
            load_pair(context, pem[CERT_FILE], pem[KEY_FILE], f"{CERT_FILE} of {name}", f"{KEY_FILE} of {name}")
        if CA_FILE in pem:
            load_authorities(context, pem[CA_FILE], f"{CA_FILE} of {name}")
    except (SpongeError, ValueError) as error:
        return str(error)
    return None
