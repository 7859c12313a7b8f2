"""A pod's load as a front hears it over a slow path: each report is told when it is `age_s` old, and until then the
one before it."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from sponge_core.routing.pod_load import PodLoad

__all__ = ["LateReports"]

EVERY_S = 0.05
"""A front hears so often, so that it takes the pod for one that reports."""


class LateReports(ThreadingHTTPServer):
    """Stands before one pod's control port, from `with` to its end.

    Args:
        control: URL of that port.
        age_s: seconds.
    """

    daemon_threads = True

    def __init__(self, control: str, age_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Stream)
        self.control = control
        self.age_s = age_s
        self.told: bytes = b""

    @property
    def address(self) -> str:
        """Where a front reads them."""
        return f"127.0.0.1:{self.server_address[1]}"

    def waiting(self) -> int:
        """Requests that wait at the pod, by the report that was told last."""
        return PodLoad.model_validate_json(self.told).waiting if self.told else 0

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Stream(BaseHTTPRequestHandler):
    server: LateReports

    def do_GET(self) -> None:
        reports: list[tuple[float, bytes]] = []
        ended = threading.Event()
        headers = {"authorization": self.headers["authorization"]}
        source = urllib.request.urlopen(urllib.request.Request(self.server.control + self.path, headers=headers))

        def read() -> None:
            with source:
                for line in source:
                    reports.append((time.monotonic(), line))
                    if ended.is_set():
                        return

        threading.Thread(target=read, daemon=True).start()
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.end_headers()
            while True:
                time.sleep(EVERY_S)
                due = time.monotonic() - self.server.age_s
                while len(reports) > 1 and reports[1][0] <= due:
                    reports.pop(0)
                if reports:
                    self.server.told = reports[0][1]
                    self.wfile.write(self.server.told)
        ended.set()

    def log_message(self, *_: object) -> None:
        """Nothing, or each connection would be a line among the tests' output."""
