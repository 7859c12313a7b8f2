"""API keys of the data ports: the file that lists them, and whose key a request carries.

The file has one key a line, as `KEY` or `NAME: KEY`. Empty lines and lines that begin with `#` do not count. Several
keys may have the same name, so that a client can move from one to the next.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from sponge_core.errors import SpongeError
from sponge_server.protocol.problems import ProblemError
from sponge_server.security.files import read_file
from sponge_system.logs import event

__all__ = ["ApiKeys", "BadKeysError", "parse_keys"]

log = logging.getLogger(__name__)

OPTION = "api-keys-file"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
KEY = re.compile(r"[!-9;-~]{1,512}")
"""Visible ASCII, as headers and metadata carry it, without the colon that ends a name."""

SHORT_KEY = 16
"""Characters. A shorter key can be guessed: nothing limits how often a stranger tries."""

FORM = "write one key a line, as KEY or NAME: KEY; `openssl rand -hex 32` makes a key"


class BadKeysError(SpongeError):
    """The file does not list keys. The message gives the line's number and quotes nothing: even a name may be a key."""


def parse_keys(content: bytes) -> dict[str, str]:
    """The name of each key; a key without one is named after its line.

    Raises:
        BadKeysError: there is no key, a line has another form, or a key appears twice.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadKeysError(f"is not a text file: {FORM}") from None
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, separator, key = (part.strip() for part in stripped.rpartition(":"))
        if not separator:
            name = f"line-{number}"
        if NAME.fullmatch(name) is None:
            raise BadKeysError(
                f"line {number}: a name has up to 64 letters, digits and . _ @ -, a key holds no colon: {FORM}"
            )
        if KEY.fullmatch(key) is None:
            raise BadKeysError(f"line {number}: a key has 1 to 512 visible ASCII characters without spaces: {FORM}")
        if key in found:
            raise BadKeysError(f"line {number}: the same key as in line {lines[key]}: give each key once")
        found[key], lines[key] = name, number
    if not found:
        raise BadKeysError(f"holds no key: {FORM}")
    return found


class ApiKeys:
    """The keys in force. `load` reads the file again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Keys are found by a digest under a secret of this process. So the time that a search takes says nothing about
        # the keys, and their own text is not kept.
        self._secret = os.urandom(32)
        self._names: dict[bytes, tuple[bytes, str]] = {}

    def load(self) -> None:
        """Puts the keys of the file into force. Raises SpongeError, and keeps those before it."""
        try:
            keys = parse_keys(read_file(self._path, OPTION))
        except BadKeysError as error:
            raise SpongeError(f"{OPTION} {self._path}: {error}") from None
        short = sum(len(key) < SHORT_KEY for key in keys)
        if short:
            event(log, "keys.short", logging.WARNING, keys=short, least=SHORT_KEY)
        names = {}
        for key, name in keys.items():
            digest = self._digest(key.encode())
            names[digest] = digest, name
        self._names = names

    def holder(self, headers: Mapping[bytes, bytes]) -> str:
        """The name of the key that a request carries, as `x-api-key` or as bearer token.

        Args:
            headers: of the request, with lower-case names; gRPC's metadata likewise.

        Raises:
            ProblemError: 401, the request carries no key, or one that is not in force.
        """
        given = headers.get(b"x-api-key")
        if given is None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer":
                text = "this server asks for an API key: send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'"
                raise ProblemError(401, "key-required", text, ((b"www-authenticate", b'Bearer realm="sponge"'),))
        digest = self._digest(given.strip())
        found = self._names.get(digest)
        if found is None or not hmac.compare_digest(found[0], digest):
            text = "this API key is not in force: send one that the server's file lists"
            challenge = b'Bearer realm="sponge", error="invalid_token"'
            raise ProblemError(401, "key-unknown", text, ((b"www-authenticate", challenge),))
        return found[1]

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._secret, digest_size=32).digest()
