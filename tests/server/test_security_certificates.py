"""Certificates from files, their end of validity, and files that change."""

from __future__ import annotations

import contextlib
import datetime
import ssl
from pathlib import Path

import pytest
from certificates_kit import NOW, Authority, Key, Pair, Secret, private, tls_secret
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.errors import SpongeError
from sponge_server.observability.metrics import Metrics
from sponge_server.security.access import Access
from sponge_server.security.certificates import Certificates
from sponge_server.security.files import LARGEST_FILE, TlsFiles
from sponge_server.security.watched_files import WatchedFiles
from sponge_server.settings import ServerSettings
from sponge_system.x509 import expires_at

AUTHORITY = Authority()
FIRST = AUTHORITY.issue("first")
SECOND = AUTHORITY.issue("second", NOW + datetime.timedelta(days=2))


class World:
    def __init__(self, folder: Path, pair: Pair = FIRST) -> None:
        self.metrics = Metrics()
        self.secret = tls_secret(folder / "secret", pair)
        files = TlsFiles(self.secret.path("tls.crt"), self.secret.path("tls.key"))
        self.certificates = Certificates(files, self.metrics)
        self.files = WatchedFiles(self.metrics)
        self.files.add("tls-cert-file", files.paths, self.certificates.load)

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"setting": "tls-cert-file"} if "reload" in name else {})

    @property
    def failures(self) -> float | None:
        return self.value("sponge_reload_failures_total")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def presented(context: ssl.SSLContext, client: ssl.SSLContext) -> bytes:
    """The certificate that a client sees, by a handshake in memory."""
    ends = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(ends[0], ends[1], server_hostname="localhost")
    theirs = context.wrap_bio(ends[1], ends[0], server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for each in (ours, theirs):
            try:
                each.do_handshake()
                done.add(each)
            except ssl.SSLWantReadError:
                continue
    assert len(done) == 2
    certificate = ours.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


@pytest.mark.parametrize(
    "ends",
    [
        NOW + datetime.timedelta(days=1),
        NOW - datetime.timedelta(seconds=1),
        datetime.datetime(2049, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),
        datetime.datetime(2050, 1, 1, tzinfo=datetime.UTC),
        datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),
    ],
)
def test_the_end_of_validity_is_read(ends: datetime.datetime) -> None:
    leaf = AUTHORITY.issue(ends=ends).cert
    assert expires_at(b"a comment\n" + leaf + AUTHORITY.pem) == ends.timestamp()


DER = ssl.PEM_cert_to_DER_cert(FIRST.cert.decode())


@given(st.integers(0, len(DER) - 1), st.integers(0, 255), st.integers(0, len(DER)))
def test_a_broken_certificate_is_an_error_and_nothing_else(at: int, byte: int, length: int) -> None:
    broken = bytearray(DER)
    broken[at] = byte
    with contextlib.suppress(ValueError):
        expires_at(ssl.DER_cert_to_PEM_cert(bytes(broken[:length])).encode())


@given(st.binary(max_size=100))
def test_any_bytes_are_no_certificate(content: bytes) -> None:
    with pytest.raises(ValueError):
        expires_at(content)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_keys_of_every_usual_kind_are_taken(tmp_path: Path, key: Key) -> None:
    pair = AUTHORITY.issue(key=key)
    assert presented(World(tmp_path, pair).certificates.data, AUTHORITY.client()) == pair.der


def test_new_handshakes_get_the_new_certificate(world: World) -> None:
    client, before = AUTHORITY.client(), world.certificates.data
    assert presented(before, client) == FIRST.der
    assert world.value("sponge_certificate_expiry_seconds") == (NOW + datetime.timedelta(days=1)).timestamp()
    world.files.look()
    assert world.certificates.data is before
    world.secret.put(tls_crt=SECOND.cert, tls_key=SECOND.key)
    world.files.look()
    assert presented(world.certificates.data, client) == SECOND.der
    assert world.value("sponge_certificate_expiry_seconds") == (NOW + datetime.timedelta(days=2)).timestamp()
    assert world.failures == 0


BROKEN = {
    "other key": {"tls_crt": SECOND.cert, "tls_key": FIRST.key},
    "half a certificate": {"tls_crt": SECOND.cert[:300], "tls_key": SECOND.key},
    "half a key": {"tls_crt": SECOND.cert, "tls_key": SECOND.key[:60]},
    "swapped": {"tls_crt": SECOND.key, "tls_key": SECOND.cert},
    "empty": {"tls_crt": b"", "tls_key": b""},
    "no key": {"tls_crt": SECOND.cert},
    "encrypted": {
        "tls_crt": SECOND.cert,
        "tls_key": private(ec.generate_private_key(ec.SECP256R1()), b"passphrase"),
    },
    "rubbish": {"tls_crt": b"\x00\xff" * 99, "tls_key": b"\x00\xff" * 99},
    "huge": {"tls_crt": SECOND.cert, "tls_key": b"x" * (LARGEST_FILE + 1)},
}


@pytest.mark.parametrize("files", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_pair_keeps_the_former_one_and_counts_once(world: World, files: dict[str, bytes]) -> None:
    client, before = AUTHORITY.client(), world.certificates.data
    world.secret.put(**files)
    for _ in range(3):
        world.files.look()
    assert world.certificates.data is before
    assert presented(before, client) == FIRST.der
    assert world.failures == 1
    world.secret.put(tls_crt=SECOND.cert, tls_key=SECOND.key)
    world.files.look()
    assert presented(world.certificates.data, client) == SECOND.der
    assert world.failures == 1


def test_files_written_one_after_the_other_end_well(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert", tmp_path / "key"
    cert.write_bytes(FIRST.cert)
    key.write_bytes(FIRST.key)
    metrics = Metrics()
    certificates, files = Certificates(TlsFiles(cert, key), metrics), WatchedFiles(metrics)
    files.add("tls-cert-file", (cert, key), certificates.load)
    for part in range(0, len(SECOND.cert), 200):
        cert.write_bytes(SECOND.cert[: part + 200])
        files.look()
    key.write_bytes(SECOND.key)
    files.look()
    assert presented(certificates.data, AUTHORITY.client()) == SECOND.der


def test_what_failed_is_tried_again_without_another_change(tmp_path: Path) -> None:
    """It may have been read between the last change that is seen and the end of the writing."""
    path, metrics = tmp_path / "file", Metrics()
    path.write_text("one")
    allowed, loaded = [True], []

    def load() -> None:
        if not allowed[0]:
            raise SpongeError("not now")
        loaded.append(path.read_text())

    files = WatchedFiles(metrics)
    files.add("api-keys-file", (path,), load)
    allowed[0] = False
    path.write_text("three")
    files.look()
    files.look()
    allowed[0] = True
    files.look()
    files.look()
    assert loaded == ["one", "three"]
    assert metrics.registry.get_sample_value("sponge_reload_failures_total", {"setting": "api-keys-file"}) == 1


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            {"tls_crt": SECOND.cert, "tls_key": FIRST.key},
            r"tls-key-file \S+ is not the key of tls-cert-file \S+: give the pair",
        ),
        ({"tls_crt": b"", "tls_key": FIRST.key}, "no certificate and key in PEM"),
        (BROKEN["encrypted"], "the key is encrypted: store it without a passphrase"),
    ],
)
def test_the_error_at_the_start_names_the_fix(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    secret = Secret(tmp_path / "secret", **files)
    given = TlsFiles(secret.path("tls.crt"), secret.path("tls.key"))
    with pytest.raises(SpongeError, match=reason):
        Certificates(given, Metrics()).load()


def test_a_pipe_is_refused_because_it_is_read_once_only(tmp_path: Path) -> None:
    given = TlsFiles(Path("/dev/null"), tmp_path / "missing")
    with pytest.raises(SpongeError, match="tls-cert-file /dev/null: give a regular file"):
        given.read()
    (tmp_path / "cert").write_bytes(FIRST.cert)
    with pytest.raises(SpongeError, match=r"tls-key-file \S+/missing: cannot be read: No such file"):
        TlsFiles(tmp_path / "cert", tmp_path / "missing").read()


def test_only_the_data_port_asks_for_a_certificate_of_the_client(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(AUTHORITY.pem)
    secret = tls_secret(tmp_path / "secret", FIRST)
    certificates = Certificates(TlsFiles(secret.path("tls.crt"), secret.path("tls.key"), ca), Metrics())
    certificates.load()
    assert certificates.data.verify_mode == ssl.CERT_REQUIRED
    assert certificates.control.verify_mode == ssl.CERT_NONE
    assert presented(certificates.control, AUTHORITY.client()) == FIRST.der
    assert presented(certificates.data, AUTHORITY.client(SECOND, tmp_path)) == FIRST.der
    with pytest.raises((ssl.SSLError, AssertionError)):
        presented(certificates.data, AUTHORITY.client())
    ca.write_text("nothing")
    with pytest.raises(SpongeError, match=r"tls-client-ca-file \S+: no certificates in PEM"):
        certificates.load()


def test_nothing_below_tls_1_2_is_spoken(world: World) -> None:
    old = AUTHORITY.client()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        presented(world.certificates.data, old)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert presented(world.certificates.data, old) == FIRST.der


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"api_keys_file": "empty"}, r"api-keys-file \S+/empty: holds no key: write one key a line"),
        ({"api_keys_file": "none"}, r"api-keys-file \S+/none: cannot be read: No such file"),
        ({"tls_cert_file": "empty", "tls_key_file": "empty"}, "no certificate and key in PEM"),
        ({"tls_cert_file": "empty"}, "without tls-key-file: give both"),
        ({"tls_key_file": "empty"}, "without tls-cert-file: give both"),
        ({"tls_client_ca_file": "empty"}, "needs TLS: give tls-cert-file and tls-key-file too"),
    ],
)
def test_a_start_that_cannot_be_names_the_fix(tmp_path: Path, options: dict[str, str], says: str) -> None:
    (tmp_path / "empty").write_text("")
    given = {name: tmp_path / file for name, file in options.items()}
    with pytest.raises(SpongeError, match=says):
        Access(ServerSettings.model_validate({"model": {"m": "digits://"}, **given}), Metrics())
