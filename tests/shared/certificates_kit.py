"""Certificates for tests: an authority, and files that are swapped as Kubernetes swaps those of a Secret."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key in PEM."""

    cert: bytes
    key: bytes

    @property
    def der(self) -> bytes:
        """As a client sees it."""
        return ssl.PEM_cert_to_DER_cert(self.cert.decode())


class Authority:
    """Signs certificates; `pem` is its own."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = named(name)
        builder = _builder(self._name, self._name, self._key, NOW + datetime.timedelta(days=10))
        own = builder.add_extension(x509.BasicConstraints(True, None), critical=True).sign(self._key, hashes.SHA256())
        self.pem = own.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str = "server", ends: datetime.datetime | None = None, key: Key | None = None) -> Pair:
        """A certificate for 127.0.0.1 and localhost that is valid until `ends`."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        builder = _builder(named(name), self._name, key, ends or NOW + datetime.timedelta(days=1))
        signed = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False).sign(
            self._key, hashes.SHA256()
        )
        return Pair(signed.public_bytes(serialization.Encoding.PEM), private(key))

    def client(self, pair: Pair | None = None, folder: Path | None = None) -> ssl.SSLContext:
        """What a client uses that trusts this authority; `pair` is the client's own certificate."""
        context = ssl.create_default_context(cadata=self.pem.decode())
        if pair is not None:
            assert folder is not None
            path = folder / "client.pem"
            path.write_bytes(pair.cert + pair.key)
            context.load_cert_chain(path)
        return context


def private(key: Key, password: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, ends: datetime.datetime) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(NOW - datetime.timedelta(days=3650)).not_valid_after(ends)


class Secret:
    """A folder as the kubelet mounts a Secret: `tls.crt` is a link through `..data` to the version in force."""

    def __init__(self, folder: Path, **files: bytes) -> None:
        """`files`: by name, with `_` for the dot."""
        self.folder = folder
        self._version = 0
        folder.mkdir()
        self.put(**files)
        for name in files:
            (folder / name.replace("_", ".")).symlink_to(Path("..data") / name.replace("_", "."))

    def put(self, **files: bytes) -> None:
        """Puts another version into force, all files at once."""
        self._version += 1
        version = self.folder / f"..{self._version}"
        version.mkdir()
        for name, content in files.items():
            (version / name.replace("_", ".")).write_bytes(content)
        link = self.folder / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self.folder / "..data")

    def path(self, name: str) -> Path:
        return self.folder / name


def tls_secret(folder: Path, pair: Pair) -> Secret:
    """A Secret of type kubernetes.io/tls."""
    return Secret(folder, tls_crt=pair.cert, tls_key=pair.key)
