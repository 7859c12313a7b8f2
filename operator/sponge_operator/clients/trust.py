"""Which certificates the operator accepts from the servers of a service: those in the service's Secret, and no other.

It connects by address, and certificates name hosts. So it compares the certificate itself and asks no authority: a
public one signs certificates for everybody.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from typing import Any

from sponge_operator.resources.mounted_secrets import CERT_FILE
from sponge_system.pinned_certificates import PinnedCertificates

__all__ = ["Trust"]


class Trust:
    """The certificates of one service."""

    def __init__(self) -> None:
        self._pinned = PinnedCertificates()

    @property
    def context(self) -> ssl.SSLContext | None:
        """For connections to its servers; None while no certificate is known."""
        return self._pinned.context

    def learn(self, secret: Mapping[str, Any] | None) -> None:
        """Takes the certificate in a Secret; without a usable one, nothing changes."""
        try:
            self._pinned.learn(base64.b64decode((secret or {})["data"][CERT_FILE]))
        except (KeyError, TypeError, ValueError):
            return
