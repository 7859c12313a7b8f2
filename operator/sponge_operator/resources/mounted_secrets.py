"""The user's Secrets in the pods of a service: certificate and API keys, with the server's options for them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sponge_operator.resources.model import ServiceSpec

__all__ = ["MountedSecret", "mounted_secrets"]

TLS_DIR = "/etc/sponge/tls"
KEYS_DIR = "/etc/sponge/api-keys"


@dataclass(frozen=True, slots=True)
class MountedSecret:
    """One Secret.

    Attributes:
        keys: that it must have.
        arguments: of the server.
    """

    volume_name: str
    secret_name: str
    keys: tuple[str, ...]
    directory: str
    arguments: tuple[str, ...]

    @property
    def volume(self) -> dict[str, Any]:
        """The volume of the pod; all keys of the Secret, so that the kubelet keeps them up to date together."""
        return {"name": self.volume_name, "secret": {"secretName": self.secret_name, "defaultMode": 0o444}}

    @property
    def mount(self) -> dict[str, Any]:
        """The mount of the container. Never with a subPath, which would not be kept up to date."""
        return {"name": self.volume_name, "mountPath": self.directory, "readOnly": True}


def mounted_secrets(spec: ServiceSpec) -> list[MountedSecret]:
    """The Secrets that a spec names."""
    found = []
    if spec.tls is not None:
        files = ("--tls-cert-file", f"{TLS_DIR}/tls.crt", "--tls-key-file", f"{TLS_DIR}/tls.key")
        found.append(MountedSecret("tls", spec.tls.secret_name, ("tls.crt", "tls.key"), TLS_DIR, files))
    if spec.api_keys is not None:
        key = spec.api_keys.key
        file = ("--api-keys-file", f"{KEYS_DIR}/{key}")
        found.append(MountedSecret("api-keys", spec.api_keys.secret_name, (key,), KEYS_DIR, file))
    return found
