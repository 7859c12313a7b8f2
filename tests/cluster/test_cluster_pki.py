"""The certificates: whom they name, who signed them, and that strict verifiers take them."""

from __future__ import annotations

import ipaddress
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from sponge_cluster.layout import Layout
from sponge_cluster.pki import identities, write_pki
from sponge_cluster.workers import Workers


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    run = tmp_path_factory.mktemp("run")
    made = _two(run)
    write_pki(made)
    return made


def _two(run: Path = Path("/state/dev")) -> Layout:
    return Layout("dev", run, "10.245.0.0/20", "10.97.0.0/24", 7443, 1, 2, 3, 4, Workers(2))


def _load(layout: Layout, stem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((layout.pki / f"{stem}.crt").read_bytes())


def _subject(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(oid)]


def test_each_is_signed_by_its_authority_and_by_no_other(layout: Layout) -> None:
    for identity in identities(layout):
        certificate = _load(layout, identity.file)
        certificate.verify_directly_issued_by(_load(layout, identity.authority))
        other = "ca" if identity.authority == "front-proxy-ca" else "front-proxy-ca"
        with pytest.raises(ValueError, match="match"):
            certificate.verify_directly_issued_by(_load(layout, other))


@pytest.mark.parametrize(
    ("stem", "name", "organization"),
    [
        ("admin", "sponge-admin", ["system:masters"]),
        ("kubelet", "system:node:dev-node", ["system:nodes"]),
        ("kubelet2", "system:node:dev-node2", ["system:nodes"]),
        ("scheduler", "system:kube-scheduler", []),
        ("proxy", "system:kube-proxy", []),
    ],
)
def test_names_are_those_of_the_built_in_roles(layout: Layout, stem: str, name: str, organization: list[str]) -> None:
    certificate = _load(layout, stem)
    assert _subject(certificate, NameOID.COMMON_NAME) == [name]
    assert _subject(certificate, NameOID.ORGANIZATION_NAME) == organization


def test_the_api_server_may_be_reached_by_every_address_it_has(layout: Layout) -> None:
    names = _load(layout, "apiserver").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)
    assert {ipaddress.ip_address(a) for a in ("127.0.0.1", "10.245.0.1", "10.97.0.1")} == set(addresses)


def test_a_kubelet_serves_on_its_own_address() -> None:
    serves = {identity.file: identity.serves for identity in identities(_two())}
    assert serves["kubelet-server"] == ("dev-node", "10.245.0.1")
    assert serves["kubelet-server2"] == ("dev-node2", "10.245.1.1")


def test_a_client_certificate_serves_nothing(layout: Layout) -> None:
    with pytest.raises(x509.ExtensionNotFound):
        _load(layout, "admin").extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_the_authority_is_identified_as_strict_verifiers_demand(layout: Layout) -> None:
    issuer = _load(layout, "ca").extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issued = _load(layout, "apiserver").extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issued.key_identifier == issuer.key_identifier


def test_keys_are_for_the_owner_only(layout: Layout) -> None:
    keys = list(Path(layout.pki).glob("*.key"))
    assert keys
    assert all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)
