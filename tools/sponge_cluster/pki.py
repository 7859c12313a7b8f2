"""The cluster's certificates: two authorities, one certificate per component, a key that signs service account tokens.

They live in the run folder, as long as the cluster.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sponge_cluster.layout import Layout, Node

__all__ = ["Identity", "identities", "write_pki"]

_LIFETIME = datetime.timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Identity:
    """One certificate: its file's stem, its subject, and the addresses that it may serve (none: a client only)."""

    file: str
    common_name: str
    organization: str | None = None
    serves: tuple[str, ...] = ()
    authority: str = "ca"


def identities(layout: Layout) -> list[Identity]:
    """The certificates of one cluster; the names are those of Kubernetes' built-in RBAC roles."""
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
    addresses = ("127.0.0.1", layout.gateway, layout.api_service)
    return [
        Identity("apiserver", "kube-apiserver", serves=names + addresses),
        Identity("admin", "sponge-admin", "system:masters"),
        Identity("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters"),
        Identity("controller-manager", "system:kube-controller-manager"),
        Identity("scheduler", "system:kube-scheduler"),
        Identity("proxy", "system:kube-proxy"),
        # A second authority: a certificate of the first one must not pass for the API server's aggregator.
        Identity("front-proxy", "front-proxy-client", authority="front-proxy-ca"),
        *(identity for node in layout.nodes for identity in _of_node(node)),
    ]


def _of_node(node: Node) -> tuple[Identity, Identity]:
    return (
        Identity(node.own("kubelet"), f"system:node:{node.name}", "system:nodes"),
        Identity(node.own("kubelet-server"), node.name, serves=(node.name, node.address)),
    )


def write_pki(layout: Layout) -> None:
    """Writes NAME.crt and NAME.key for every authority and identity, and service-accounts.key and .pub."""
    layout.pki.mkdir(mode=0o700)
    authorities = {name: _authority(name, layout.pki) for name in ("ca", "front-proxy-ca")}
    for identity in identities(layout):
        _issue(identity, authorities[identity.authority], layout.pki)
    signer = ec.generate_private_key(ec.SECP256R1())
    _write_key(layout.pki / "service-accounts.key", signer)
    public = signer.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (layout.pki / "service-accounts.pub").write_bytes(public)


_Authority = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _authority(name: str, folder: Path) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"sponge-{name}", None)
    builder = (
        _builder(subject, subject, key.public_key(), key.public_key())
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    _write(folder / name, certificate, key)
    return certificate, key


def _issue(identity: Identity, authority: _Authority, folder: Path) -> None:
    issuer, issuer_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(identity.common_name, identity.organization)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH] + ([ExtendedKeyUsageOID.SERVER_AUTH] if identity.serves else [])
    builder = (
        _builder(subject, issuer.subject, key.public_key(), issuer_key.public_key())
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    )
    if identity.serves:
        builder = builder.add_extension(_alternatives(identity.serves), critical=False)
    _write(folder / identity.file, builder.sign(issuer_key, hashes.SHA256()), key)


def _name(common_name: str, organization: str | None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _alternatives(serves: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = []
    for entry in serves:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(entry)))
        except ValueError:
            names.append(x509.DNSName(entry))
    return x509.SubjectAlternativeName(names)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, issuer_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
        # Strict verifiers, such as Python 3.13's default context, require both key identifiers.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(stem: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    stem.with_name(stem.name + ".crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_key(stem.with_name(stem.name + ".key"), key)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.touch(mode=0o600)
    path.write_bytes(pem)
