"""Requests to the commanded model, one after another on open connections, while something happens to the server."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from types import TracebackType
from urllib.parse import urlsplit

from server_process import ServerProcess, command_body


class SteadyRequests:
    """Context in which `clients` connections send one request after another.

    Attributes:
        answers: number of answers by status.
        lost: what happened to requests that got none.
    """

    def __init__(self, server: ServerProcess, clients: int = 3, work_ms: int = 5) -> None:
        self.answers: Counter[int] = Counter()
        self.lost: list[str] = []
        self._address = urlsplit(server.data).netloc
        self._body = json.dumps(command_body(work_ms)).encode()
        self._leave = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]

    def __enter__(self) -> SteadyRequests:
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, more: int = 10) -> None:
        """Waits until so many more requests were answered as asked."""
        wanted, until = self.answers[200] + more, time.monotonic() + 60
        while self.answers[200] < wanted:
            assert time.monotonic() < until, f"only {self.answers} and {self.lost}"
            time.sleep(0.01)

    def _send(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        while not self._leave.is_set():
            try:
                connection.request("POST", "/v2/models/m/infer", self._body, {"content-type": "application/json"})
                with connection.getresponse() as response:
                    response.read()
                    status = response.status
            except OSError as error:
                with self._lock:
                    self.lost.append(repr(error))
                return
            with self._lock:
                self.answers[status] += 1
            self._leave.wait(0.01 if status == 200 else 0.1)
        connection.close()
