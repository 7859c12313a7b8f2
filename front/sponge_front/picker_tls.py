"""TLS on the port where gateways ask the picker; a certificate that has changed is shown to new connections."""

from __future__ import annotations

import logging
import ssl

import grpc

from sponge_core.errors import SpongeError
from sponge_front.documents import read
from sponge_front.settings import TlsFiles
from sponge_system.logs import event
from sponge_system.tls_pairs import load_pair

__all__ = ["picker_credentials"]

log = logging.getLogger(__name__)


def picker_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that read the files at each connection. Raises SpongeError if they cannot be used now."""
    in_force = initial = _configuration(files)

    def newest() -> grpc.ServerCertificateConfiguration:
        nonlocal in_force
        try:
            in_force = _configuration(files)
        except SpongeError as error:
            event(log, "picker_certificate.refused", logging.ERROR, kept="the former one", why=error)
        return in_force

    return grpc.dynamic_ssl_server_credentials(initial, newest)


def _configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    cert, key = read(files.cert, "--picker-cert-file"), read(files.key, "--picker-key-file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(context, cert, key, f"--picker-cert-file {files.cert}", f"--picker-key-file {files.key}")
    return grpc.ssl_server_certificate_configuration([(key, cert)])
