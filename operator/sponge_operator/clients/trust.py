"""Which certificates the operator accepts from the servers of a service: those in the service's Secret, and no other.

It connects by address, and certificates name hosts. So it compares the certificate itself and asks no authority: a
public one signs certificates for everybody.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Mapping
from typing import Any

__all__ = ["Trust"]

CERT_KEY = "tls.crt"
"""In a Secret of type kubernetes.io/tls."""

REMEMBERED = 3
"""Certificates. A pod follows a change of its Secret a minute or two later, or not at all if it cannot use it."""

FIRST = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Trust:
    """The certificates of one service.

    Attributes:
        context: for connections to its servers; None while no certificate is known.
    """

    def __init__(self) -> None:
        self.context: ssl.SSLContext | None = None
        self._known: list[str] = []

    def learn(self, secret: Mapping[str, Any] | None) -> None:
        """Takes the certificate in a Secret; without a usable one, nothing changes."""
        leaf = _leaf(secret)
        if leaf is None or leaf in self._known[-1:]:
            return
        known = [*(each for each in self._known if each != leaf), leaf][-REMEMBERED:]
        try:
            self.context = _context(known)
        except ssl.SSLError:
            return
        self._known = known


def _leaf(secret: Mapping[str, Any] | None) -> str | None:
    """The first certificate: behind it come those of authorities."""
    try:
        text = base64.b64decode((secret or {})["data"][CERT_KEY]).decode("ascii")
    except (KeyError, TypeError, ValueError):
        return None
    found = FIRST.search(text)
    return None if found is None else found[0]


def _context(leaves: list[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    # A certificate is trusted by itself, whoever has signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata="\n".join(leaves))
    return context
