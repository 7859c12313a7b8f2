"""The certificate of the ports: read from files, checked as a whole, replaced for new handshakes when they change."""

from __future__ import annotations

import logging
import ssl
import time
from datetime import UTC, datetime

from sponge_core.errors import SpongeError
from sponge_server.observability.metrics import Metrics
from sponge_server.security.files import CA_OPTION, CERT_OPTION, KEY_OPTION, Pem, TlsFiles
from sponge_system.logs import event
from sponge_system.tls_pairs import load_authorities, load_pair
from sponge_system.x509 import expires_at

__all__ = ["Certificates"]

log = logging.getLogger(__name__)


class Certificates:
    """What the ports present. `load` reads the files again; connections that are open keep what they have.

    Attributes:
        pem: the contents in force.
        data: context of the REST port; asks clients for a certificate if their authority is given.
        control: context of the control port, which asks for none: kubelets and Prometheus have none.
    """

    def __init__(self, files: TlsFiles, metrics: Metrics) -> None:
        self._files = files
        self._expiry = metrics.certificate_expiry
        self.pem: Pem
        self.data: ssl.SSLContext
        self.control: ssl.SSLContext

    def load(self) -> None:
        """Puts the contents of the files into force. Raises SpongeError, and keeps those before it."""
        files = self._files
        pem = files.read()
        control = self._context(pem)
        data = control if pem.client_ca is None else self._asking(self._context(pem), pem.client_ca)
        try:
            expiry = expires_at(pem.cert)
        except ValueError as error:
            raise SpongeError(f"{CERT_OPTION} {files.cert}: {error}") from None
        self.pem, self.data, self.control = pem, data, control
        self._expiry.set(expiry)
        level = logging.INFO if expiry > time.time() else logging.WARNING
        event(log, "tls.in_force", level, expires=datetime.fromtimestamp(expiry, UTC).isoformat())

    def _context(self, pem: Pem) -> ssl.SSLContext:
        # A context of its own for each version: a broken pair does no harm to the one in force, and no session of the
        # former certificate is resumed.
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        files = self._files
        # From copies: the files may be replaced between two reads.
        load_pair(context, pem.cert, pem.key, f"{CERT_OPTION} {files.cert}", f"{KEY_OPTION} {files.key}")
        return context

    def _asking(self, context: ssl.SSLContext, client_ca: bytes) -> ssl.SSLContext:
        load_authorities(context, client_ca, f"{CA_OPTION} {self._files.client_ca}")
        context.verify_mode = ssl.CERT_REQUIRED
        return context
