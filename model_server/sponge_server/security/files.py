"""The files of certificates and keys, read as a whole."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from sponge_core.errors import SpongeError

__all__ = ["CA_OPTION", "CERT_OPTION", "KEY_OPTION", "Pem", "TlsFiles", "read_file"]

CERT_OPTION, KEY_OPTION, CA_OPTION = "tls-cert-file", "tls-key-file", "tls-client-ca-file"

LARGEST_FILE = 4 << 20


@dataclass(frozen=True, slots=True)
class Pem:
    """A certificate with its chain, its key, and the authority of the clients' certificates, if any; in PEM."""

    cert: bytes
    key: bytes
    client_ca: bytes | None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files that hold a `Pem`."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that are given."""
        return tuple(path for path in (self.cert, self.key, self.client_ca) if path is not None)

    def read(self) -> Pem:
        """Their content. Raises SpongeError."""
        return Pem(
            read_file(self.cert, CERT_OPTION),
            read_file(self.key, KEY_OPTION),
            None if self.client_ca is None else read_file(self.client_ca, CA_OPTION),
        )


def read_file(path: Path, option: str) -> bytes:
    """The content of a regular file of at most 4 MiB. Raises SpongeError, which names `option`."""
    try:
        # A pipe would be read once only, and would block the event loop the next time.
        if not stat.S_ISREG(path.stat().st_mode):
            raise SpongeError(f"{option} {path}: give a regular file, because it is read again when it changes")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise SpongeError(f"{option} {path}: cannot be read: {error.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise SpongeError(f"{option} {path}: has more than {LARGEST_FILE} bytes: is it the right file?")
    return content
