"""Writes the files that the proxy reads."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path

from sponge_front.documents import read, write
from sponge_front.envoy_config import bootstrap, endpoints, endpoints_file
from sponge_front.envoy_tls import certificate, certificate_file, client_authority, client_authority_file
from sponge_front.pods import Pod
from sponge_front.pods_trust import PodsTrust
from sponge_front.settings import EnvoySettings, TlsFiles
from sponge_system.tls_pairs import load_authorities, load_pair

__all__ = ["prepare", "write_endpoints"]


def write_endpoints(directory: Path, pods: Iterable[Pod]) -> None:
    """Tells the proxy which pods there are. Raises SpongeError."""
    pods = list(pods)
    for protocol in ("http", "grpc"):
        write(endpoints_file(directory, protocol), endpoints(protocol, pods))


def prepare(settings: EnvoySettings) -> Path:
    """Writes what the proxy needs to start, and returns the path of its bootstrap. Raises SpongeError.

    Addresses that an earlier picker has written stay: the proxy may start before the picker.
    """
    directory = settings.directory
    if settings.tls is not None:
        _check(settings.tls)
    if not all(endpoints_file(directory, protocol).exists() for protocol in ("http", "grpc")):
        write_endpoints(directory, ())
    if settings.tls is not None:
        write(certificate_file(directory), certificate(settings.tls))
        if settings.tls.client_ca is not None:
            write(client_authority_file(directory), client_authority(settings.tls.client_ca))
    if settings.pods_tls is not None:
        PodsTrust(settings.pods_tls, directory).look()
    path = directory / "envoy.json"
    write(path, bootstrap(settings))
    return path


def _check(files: TlsFiles) -> None:
    """The proxy would start without what it cannot use, and end every connection."""
    cert, key = read(files.cert, "--tls-cert-file"), read(files.key, "--tls-key-file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(context, cert, key, f"--tls-cert-file {files.cert}", f"--tls-key-file {files.key}")
    if files.client_ca is not None:
        name = "--tls-client-ca-file"
        load_authorities(context, read(files.client_ca, name), f"{name} {files.client_ca}")
