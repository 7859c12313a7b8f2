"""The bearer token of the control endpoints: the file that holds it, and which tokens are in force."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from pathlib import Path

from sponge_core.errors import SpongeError
from sponge_server.protocol.problems import ProblemError
from sponge_server.security.files import read_file

__all__ = ["ControlToken", "authorise"]

OPTION = "control-token-file"

FORMER_S = 60.0
"""How long the token before a change still works: the new one reaches operator and servers at different times."""


class ControlToken:
    """The tokens in force. `load` reads the file again."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._token = b""
        self._former = b""
        self._former_until = 0.0

    def load(self) -> None:
        """Puts the token of the file into force. Raises SpongeError, and keeps the one before it."""
        token = read_file(self._path, OPTION).strip()
        if not token:
            raise SpongeError(f"{OPTION} {self._path}: the file is empty; write the token into it")
        if token != self._token:
            self._former, self._former_until = self._token, self._clock() + FORMER_S
            self._token = token

    def accepts(self, given: str) -> bool:
        """Whether a request with this token may read the state and apply sizes."""
        candidate = given.strip().encode()
        if hmac.compare_digest(candidate, self._token):
            return True
        is_former = hmac.compare_digest(candidate, self._former)
        return is_former and bool(self._former) and self._clock() < self._former_until


def authorise(token: ControlToken | None, authorization: str, closed: str) -> None:
    """Checks the header `Authorization` of a request. Raises ProblemError 401, or 403 with `closed` without a token."""
    if token is None:
        raise ProblemError(403, "control-off", closed)
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.accepts(given):
        raise ProblemError(
            401,
            "token-required",
            "send the content of the control token file as 'Authorization: Bearer TOKEN'",
            [(b"www-authenticate", b"Bearer")],
        )
