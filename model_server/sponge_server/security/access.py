"""Certificates, API keys and control token of one server, as its settings name their files."""

from __future__ import annotations

from sponge_server.observability.metrics import Metrics
from sponge_server.security.api_keys import ApiKeys
from sponge_server.security.certificates import Certificates
from sponge_server.security.control_token import ControlToken
from sponge_server.security.watched_files import WatchedFiles
from sponge_server.settings import ServerSettings

__all__ = ["Access"]


class Access:
    """What is in force.

    Attributes:
        certificates: None: the ports speak plain text.
        keys: None: requests need none.
        control_token: of the control endpoints; None keeps them closed.
        files: run it, so that they follow their files.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        """Reads the files. Raises SpongeError."""
        self.files = WatchedFiles(metrics)
        self.certificates: Certificates | None = None
        self.keys: ApiKeys | None = None
        self.control_token: ControlToken | None = None
        tls, keys_file = settings.tls_files, settings.api_keys_file
        if tls is not None:
            self.certificates = Certificates(tls, metrics)
            self.files.add("tls-cert-file", tls.paths, self.certificates.load)
        if keys_file is not None:
            self.keys = ApiKeys(keys_file)
            self.files.add("api-keys-file", (keys_file,), self.keys.load)
        if settings.control_token_file is not None:
            self.control_token = ControlToken(settings.control_token_file)
            self.files.add("control-token-file", (settings.control_token_file,), self.control_token.load)
