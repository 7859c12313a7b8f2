"""TLS in the proxy's configuration: the certificate that its clients see, and what it accepts from the pods. Pure.

Envoy reads certificates by files that name them (its secret discovery service), and again when they change: the first
kind of file names a Secret's mount, whose link `..data` the kubelet swaps.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from sponge_front.settings import TlsFiles
from sponge_system.x509 import Name

__all__ = [
    "certificate",
    "certificate_file",
    "client_authority",
    "client_authority_file",
    "from_clients",
    "pods_authority",
    "pods_authority_file",
    "to_pods",
]

Message = dict[str, Any]

_KIND: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_CERTIFICATE, _CLIENTS, _PODS = "certificate", "clients", "pods"
_TLS_PARAMS: Final = {"tls_minimum_protocol_version": "TLSv1_2"}

HANDSHAKE: Final = "10s"
"""How long a client may take for its handshake."""


def certificate_file(directory: Path) -> Path:
    """The file with the content of `certificate`."""
    return directory / f"{_CERTIFICATE}.json"


def client_authority_file(directory: Path) -> Path:
    """The file with the content of `client_authority`."""
    return directory / f"{_CLIENTS}.json"


def pods_authority_file(directory: Path) -> Path:
    """The file with the content of `pods_authority`."""
    return directory / f"{_PODS}.json"


def certificate(files: TlsFiles) -> Message:
    """Where the proxy's certificate and key are."""
    found = {
        "certificate_chain": {"filename": str(files.cert)},
        "private_key": {"filename": str(files.key)},
        "watched_directory": {"path": str(files.cert.parent)},
    }
    return _secret(_CERTIFICATE, "tls_certificate", found)


def client_authority(path: Path) -> Message:
    """Where the certificates of the authorities of clients are."""
    found = {"trusted_ca": {"filename": str(path)}, "watched_directory": {"path": str(path.parent)}}
    return _secret(_CLIENTS, "validation_context", found)


def from_clients(directory: Path, *, ask: bool) -> Message:
    """The part of a filter chain that has its clients speak TLS; `ask`: they need a certificate of their own."""
    common = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": _TLS_PARAMS,
        "tls_certificate_sds_secret_configs": [_reference(_CERTIFICATE, certificate_file(directory))],
    }
    if ask:
        common["validation_context_sds_secret_config"] = _reference(_CLIENTS, client_authority_file(directory))
    context = {
        "@type": f"{_KIND}.DownstreamTlsContext",
        "common_tls_context": common,
        **({"require_client_certificate": True} if ask else {}),
    }
    return {"transport_socket": _socket(context), "transport_socket_connect_timeout": HANDSHAKE}


def pods_authority(trusted: Iterable[bytes], names: Iterable[Name]) -> Message:
    """What is accepted from the pods: certificates among `trusted`, in PEM, or by them, for one of the names."""
    matchers = [{"san_type": kind, "matcher": {"exact": name}} for kind, name in names]
    authority = {"trusted_ca": {"inline_string": b"\n".join(trusted).decode("ascii")}}
    more = {"match_typed_subject_alt_names": matchers} if matchers else {}
    return _secret(_PODS, "validation_context", {**authority, **more})


def to_pods(directory: Path, protocol: str) -> Message:
    """The part of a cluster that has the proxy speak TLS to the pods; `protocol` as ALPN names it."""
    common = {
        "alpn_protocols": [protocol],
        "tls_params": _TLS_PARAMS,
        "validation_context_sds_secret_config": _reference(_PODS, pods_authority_file(directory)),
    }
    return {"transport_socket": _socket({"@type": f"{_KIND}.UpstreamTlsContext", "common_tls_context": common})}


def _secret(name: str, kind: str, content: Message) -> Message:
    return {"resources": [{"@type": f"{_KIND}.Secret", "name": name, kind: content}]}


def _reference(name: str, file: Path) -> Message:
    source = {"path": str(file), "watched_directory": {"path": str(file.parent)}}
    return {"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": source}}


def _socket(context: Message) -> Message:
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}
