"""What a front accepts from pods with TLS, while their certificate is renewed, broken and gone."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from certificates_kit import Authority, Secret

from sponge_core.errors import SpongeError
from sponge_front.pods_trust import PodsTrust
from sponge_front.settings import PodsTls
from sponge_system.pinned_certificates import REMEMBERED
from sponge_system.x509 import split

AUTHORITY = Authority()


class Site:
    def __init__(self, folder: Path, **files: bytes) -> None:
        folder.mkdir(exist_ok=True)
        self.secret = Secret(folder / "secret", **files)
        self.directory = folder / "front"
        self.trust = PodsTrust(PodsTls(self.secret.path("tls.crt"), self.secret.path("ca.crt")), self.directory)

    def told(self) -> dict[str, Any]:
        """What the proxy is told."""
        (secret,) = json.loads((self.directory / "pods.json").read_text())["resources"]
        found: dict[str, Any] = secret["validation_context"]
        return found

    def trusted(self) -> list[bytes]:
        return split(self.told()["trusted_ca"]["inline_string"].encode())

    def pinned(self) -> list[bytes]:
        """What the control ports may show."""
        assert self.trust.context is not None
        # The store lists authorities only, but counts all.
        assert self.trust.context.verify_mode == ssl.CERT_REQUIRED
        return [b""] * self.trust.context.cert_store_stats()["x509"]


def one(pem: bytes) -> bytes:
    (found,) = split(pem)
    return found


def test_the_proxy_accepts_the_newest_certificates_and_the_names_by_their_authorities(tmp_path: Path) -> None:
    issued, between = [AUTHORITY.issue() for _ in range(REMEMBERED + 1)], Authority("between")
    site = Site(tmp_path, tls_crt=issued[0].cert + between.pem, ca_crt=AUTHORITY.pem)
    site.trust.look()
    assert site.trusted() == [one(issued[0].cert), one(between.pem), one(AUTHORITY.pem)]
    assert site.told()["match_typed_subject_alt_names"] == [
        {"san_type": "IP_ADDRESS", "matcher": {"exact": "127.0.0.1"}},
        {"san_type": "DNS", "matcher": {"exact": "localhost"}},
    ]
    for pair in issued[1:]:
        site.secret.put(tls_crt=pair.cert, ca_crt=AUTHORITY.pem)
        site.trust.look()
    assert site.trusted() == [*(one(pair.cert) for pair in issued[1:]), one(AUTHORITY.pem)]
    assert len(site.pinned()) == REMEMBERED, "no authority is asked for the control ports"


def test_without_an_authority_the_certificates_alone_count(tmp_path: Path) -> None:
    pair = AUTHORITY.issue()
    site = Site(tmp_path, tls_crt=pair.cert)
    site.trust.look()
    assert site.trusted() == [one(pair.cert)]


def test_without_names_no_authority_counts(tmp_path: Path) -> None:
    nameless = Authority("itself").pem
    site = Site(tmp_path, tls_crt=nameless, ca_crt=AUTHORITY.pem)
    site.trust.look()
    assert site.trusted() == [one(nameless)]
    assert "match_typed_subject_alt_names" not in site.told()


def test_the_file_is_written_when_something_is_new(tmp_path: Path) -> None:
    site = Site(tmp_path, tls_crt=AUTHORITY.issue().cert, ca_crt=AUTHORITY.pem)
    site.trust.look()
    (site.directory / "pods.json").unlink()
    site.trust.look()
    assert not (site.directory / "pods.json").exists()
    site.secret.put(tls_crt=site.secret.path("tls.crt").read_bytes(), ca_crt=Authority("next").pem)
    site.trust.look()
    assert (site.directory / "pods.json").exists()


def test_what_cannot_be_used_leaves_the_former(tmp_path: Path) -> None:
    pair = AUTHORITY.issue()
    site = Site(tmp_path, tls_crt=pair.cert)
    site.trust.look()
    site.secret.put(tls_crt=b"broken")
    with pytest.raises(SpongeError, match="no certificate in PEM"):
        site.trust.look()
    assert site.trusted() == [one(pair.cert)]
    site.secret.path("tls.crt").unlink()
    with pytest.raises(SpongeError, match=r"--pods-cert-file .* cannot be read"):
        site.trust.look()
    assert site.trusted() == [one(pair.cert)]


def test_a_front_without_the_pods_certificate_does_not_start(tmp_path: Path) -> None:
    for content in (b"", b"broken", b"-----BEGIN CERTIFICATE-----\neA==\n-----END CERTIFICATE-----\n"):
        site = Site(tmp_path / str(len(content)), tls_crt=content)
        with pytest.raises(SpongeError, match="no certificate in PEM; name the pods' own"):
            site.trust.look()
        assert not site.directory.exists()
