"""The user's Secrets in the pods of a service and of its front: certificates and API keys, with the options for them.
Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sponge_operator.resources.model import ServiceSpec

__all__ = ["CA_FILE", "CERT_FILE", "KEY_FILE", "FrontSecrets", "MountedSecret", "front_secrets", "mounted_secrets"]

CERT_FILE, KEY_FILE, CA_FILE = "tls.crt", "tls.key", "ca.crt"
"""Keys of a Secret of type kubernetes.io/tls; where it is mounted, its files."""

TLS_DIR = "/etc/sponge/tls"
KEYS_DIR = "/etc/sponge/api-keys"
CLIENT_CA_DIR = "/etc/sponge/client-ca"
PODS_TLS_DIR = "/etc/sponge/pods-tls"


@dataclass(frozen=True, slots=True)
class MountedSecret:
    """One Secret.

    Attributes:
        keys: that it must have.
        arguments: of the program that reads it.
        only: keys that are mounted, as far as they are there; empty: all.
    """

    volume_name: str
    secret_name: str
    keys: tuple[str, ...]
    directory: str
    arguments: tuple[str, ...]
    only: tuple[str, ...] = ()

    @property
    def volume(self) -> dict[str, Any]:
        """The volume of the pod. The kubelet keeps its keys up to date together."""
        items = [{"key": key, "path": key} for key in self.only]
        some = {"items": items, "optional": True} if items else {}
        return {"name": self.volume_name, "secret": {"secretName": self.secret_name, "defaultMode": 0o444, **some}}

    @property
    def mount(self) -> dict[str, Any]:
        """The mount of the container. Never with a subPath, which would not be kept up to date."""
        return {"name": self.volume_name, "mountPath": self.directory, "readOnly": True}


def mounted_secrets(spec: ServiceSpec) -> list[MountedSecret]:
    """The Secrets that a spec names."""
    found = []
    if spec.tls is not None:
        found.append(_certificate(spec.tls.secret_name))
    if spec.api_keys is not None:
        key = spec.api_keys.key
        file = ("--api-keys-file", f"{KEYS_DIR}/{key}")
        found.append(MountedSecret("api-keys", spec.api_keys.secret_name, (key,), KEYS_DIR, file))
    return found


@dataclass(frozen=True, slots=True)
class FrontSecrets:
    """The Secrets of a front.

    Attributes:
        clients: what the proxy shows to its clients, and by what it knows them.
        pods: by what pods with TLS are known, without their key.
    """

    clients: tuple[MountedSecret, ...]
    pods: tuple[MountedSecret, ...]

    @property
    def all(self) -> tuple[MountedSecret, ...]:
        return (*self.clients, *self.pods)


def front_secrets(spec: ServiceSpec) -> FrontSecrets:
    """The Secrets that the front of a spec uses. Where the servers speak TLS, so does it, by their certificate."""
    own, clients = None if spec.front is None else spec.front.tls, []
    if shown := own or spec.tls:
        clients.append(_certificate(shown.secret_name))
    if own is not None and own.client_ca_secret is not None:
        file = ("--tls-client-ca-file", f"{CLIENT_CA_DIR}/{CA_FILE}")
        clients.append(MountedSecret("client-ca", own.client_ca_secret, (CA_FILE,), CLIENT_CA_DIR, file))
    if spec.tls is None:
        return FrontSecrets(tuple(clients), ())
    files = ("--pods-cert-file", f"{PODS_TLS_DIR}/{CERT_FILE}", "--pods-ca-file", f"{PODS_TLS_DIR}/{CA_FILE}")
    needed, taken = (CERT_FILE,), (CERT_FILE, CA_FILE)
    return FrontSecrets(
        tuple(clients), (MountedSecret("pods-tls", spec.tls.secret_name, needed, PODS_TLS_DIR, files, taken),)
    )


def _certificate(secret_name: str) -> MountedSecret:
    """What a program shows to its clients."""
    files = ("--tls-cert-file", f"{TLS_DIR}/{CERT_FILE}", "--tls-key-file", f"{TLS_DIR}/{KEY_FILE}")
    return MountedSecret("tls", secret_name, (CERT_FILE, KEY_FILE), TLS_DIR, files)
