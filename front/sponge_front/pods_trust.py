"""Which certificates a front accepts from pods that speak TLS, and the file by which the proxy learns it.

The control ports, which are sent the token, must show one of the newest certificates of the Secret itself, as to the
operator. The proxy accepts those too, and others for the same names by an authority that comes with them: a renewed
certificate may be in the pods before it is in the front.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from pathlib import Path
from typing import Any

from sponge_core.errors import SpongeError
from sponge_front.documents import read, write
from sponge_front.envoy_tls import pods_authority, pods_authority_file
from sponge_front.settings import PodsTls
from sponge_system.logs import event
from sponge_system.pinned_certificates import PinnedCertificates
from sponge_system.x509 import Name, names_of, split

__all__ = ["PodsTrust"]

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks at the files, which are small; a Secret needs up to a minute to reach its pods."""


class PodsTrust:
    """The trust in the pods of one service."""

    def __init__(self, files: PodsTls, directory: Path) -> None:
        """`directory`: shared with the proxy."""
        self._files = files
        self._path = pods_authority_file(directory)
        self._pinned = PinnedCertificates()
        self._written: dict[str, Any] | None = None

    @property
    def context(self) -> ssl.SSLContext | None:
        """For connections to the control ports; None while no certificate is known."""
        return self._pinned.context

    def look(self) -> None:
        """Reads the files, and tells the proxy what is new. Raises SpongeError, and changes nothing."""
        cert = read(self._files.cert, "--pods-cert-file")
        leaf, *authorities = split(cert) or [b""]
        if self._files.ca is not None and self._files.ca.exists():
            authorities += split(read(self._files.ca, "--pods-ca-file"))
        self._pinned.learn(leaf)
        known = self._pinned.known
        if not leaf or not known:
            raise SpongeError(f"--pods-cert-file {self._files.cert}: no certificate in PEM; name the pods' own")
        names: dict[Name, None] = {}
        for each in known:
            with contextlib.suppress(ValueError):
                names.update(dict.fromkeys(names_of(each)))
        # Without names, an authority's other certificates would do as well.
        document = pods_authority([*known, *(authorities if names else ())], list(names))
        if document != self._written:
            write(self._path, document)
            self._written = document

    async def follow(self) -> None:
        """Looks again and again, until cancelled."""
        refused = ""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self.look()
                refused = ""
            except SpongeError as error:
                if str(error) != refused:
                    refused = str(error)
                    event(log, "pods_certificate.refused", logging.ERROR, kept="the former ones", why=error)
