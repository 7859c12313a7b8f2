"""How to reach a server that has TLS or asks for an API key: which certificates to trust, and the key."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from sponge_client.errors import LoadError

__all__ = ["key_headers", "read_api_key", "trusting"]

KEY = re.compile(r"[!-~]+")
"""Visible ASCII without spaces, as a header carries it."""


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """The context of connections to https URLs.

    Args:
        ca_file: PEM of the authority that signed the server's certificate; None: the authorities of this machine.

    Raises:
        LoadError: the file holds no certificates.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:  # the latter where the content is at fault
        reason = "no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise LoadError(f"--ca-file {ca_file}: {reason}; give the authority that signed the certificate") from None


def read_api_key(path: Path) -> str:
    """The key in a file that holds nothing else. Raises LoadError, which does not quote it."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise LoadError(f"--api-key-file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if KEY.fullmatch(text) is None:
        raise LoadError(f"--api-key-file {path}: write the key into it and nothing else: one line of visible ASCII")
    return text


def key_headers(api_key: str | None) -> dict[str, str]:
    """The header that carries a key; none without one."""
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
