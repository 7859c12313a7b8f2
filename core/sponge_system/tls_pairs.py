"""Certificates in PEM, put into a TLS context from memory, with errors that say what is wrong with them."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from typing import NoReturn

from sponge_core.errors import SpongeError

__all__ = ["load_authorities", "load_pair"]


def load_pair(context: ssl.SSLContext, cert: bytes, key: bytes, cert_name: str, key_name: str) -> None:
    """Has a context present this certificate; both in PEM.

    Args:
        cert_name, key_name: what the errors call them.

    Raises:
        SpongeError: they are no certificate and key, or do not belong together.
    """
    with _named(cert) as cert_path, _named(key) as key_path:
        try:
            context.load_cert_chain(cert_path, key_path, password=_no_password)
        except _EncryptedError:
            text = "the key is encrypted: store it without a passphrase, and restrict who may read the file"
            raise SpongeError(f"{key_name}: {text}") from None
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise SpongeError(f"{key_name} is not the key of {cert_name}: give the pair") from None
            why = error.reason or error
            raise SpongeError(f"{cert_name} and {key_name}: no certificate and key in PEM ({why})") from None


def load_authorities(context: ssl.SSLContext, pem: bytes, name: str) -> None:
    """Has a context trust these certificates; errors call them `name`. Raises SpongeError if there are none."""
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise SpongeError(f"{name}: no certificates in PEM") from None


class _EncryptedError(Exception):
    pass


def _no_password() -> NoReturn:
    """Instead of a question at the terminal."""
    raise _EncryptedError


@contextlib.contextmanager
def _named(content: bytes) -> Iterator[str]:
    """A path to a copy in memory, because the library reads certificates from paths only."""
    with open(os.memfd_create("pem"), "wb") as file:  # noqa: PTH123 - there is no path yet
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
