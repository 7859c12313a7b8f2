"""Accepts the newest certificates of one holder, each by itself, whoever has signed it.

For connections by address, where the names in a certificate say nothing, and for peers that get a secret: an authority
signs for others, too.
"""

from __future__ import annotations

import ssl

from sponge_system.x509 import split

__all__ = ["PinnedCertificates"]

REMEMBERED = 3
"""Certificates. A pod follows a change of its Secret a minute or two later, or not at all if it cannot use it."""


class PinnedCertificates:
    """The certificates of one holder.

    Attributes:
        known: the certificates in PEM, the newest last.
        context: for connections to the holder; None while no certificate is known.
    """

    def __init__(self) -> None:
        self.known: tuple[bytes, ...] = ()
        self.context: ssl.SSLContext | None = None

    def learn(self, pem: bytes) -> bool:
        """Takes the first certificate of a file; without a usable one, nothing changes. Returns whether it is news."""
        leaf = next(iter(split(pem)), None)
        if leaf is None or leaf in self.known[-1:]:
            return False
        known = (*(each for each in self.known if each != leaf), leaf)[-REMEMBERED:]
        try:
            self.context = _context(known)
        except (ssl.SSLError, ValueError):
            return False
        self.known = known
        return True


def _context(leaves: tuple[bytes, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    # A certificate is trusted by itself, whoever has signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=b"\n".join(leaves).decode("ascii"))
    return context
