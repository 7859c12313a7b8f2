"""What certificates say of themselves, against another reader of them."""

from __future__ import annotations

import datetime
import ipaddress
import ssl

import pytest
from certificates_kit import NOW, Authority, named
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sponge_system.x509 import names_of, split

LABEL = st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True)
HOST = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(names: list[x509.GeneralName], *, critical: bool = False) -> bytes:
    builder = x509.CertificateBuilder().subject_name(named("a")).issuer_name(named("b")).public_key(KEY.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=critical)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@given(st.lists(HOST, max_size=5), st.lists(st.ip_addresses(), max_size=3), st.lists(HOST, max_size=2), st.booleans())
def test_names_of_every_kind_are_found(
    hosts: list[str], addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address], uris: list[str], critical: bool
) -> None:
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
    names += [x509.IPAddress(address) for address in addresses]
    names += [x509.UniformResourceIdentifier(f"spiffe://{uri}/a") for uri in uris]
    expected = [("DNS", host) for host in hosts] + [("IP_ADDRESS", str(address)) for address in addresses]
    expected += [("URI", f"spiffe://{uri}/a") for uri in uris]
    assert names_of(certificate(names, critical=critical)) == expected


def test_names_that_no_server_is_asked_for_are_left_out() -> None:
    names: list[x509.GeneralName] = [
        x509.RFC822Name("a@example.com"),
        x509.DNSName("a"),
        x509.DirectoryName(named("c")),
    ]
    assert names_of(certificate(names)) == [("DNS", "a")]


@given(st.binary(max_size=60), st.integers(1, 200))
def test_what_is_no_certificate_is_told(content: bytes, length: int) -> None:
    for pem in (content, ssl.DER_cert_to_PEM_cert(content).encode()):
        with pytest.raises(ValueError):
            names_of(pem)
    whole = ssl.PEM_cert_to_DER_cert(certificate([x509.DNSName("a")]).decode())
    with pytest.raises(ValueError):
        names_of(ssl.DER_cert_to_PEM_cert(whole[:-length]).encode())


def test_the_certificates_of_a_file_are_told_apart() -> None:
    authority = Authority()
    leaf = authority.issue().cert
    assert split(b"a comment\n" + leaf + b"\n" + authority.pem) == [leaf.strip(), authority.pem.strip()]
    assert split(b"") == []
