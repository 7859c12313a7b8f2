"""Watches a server from outside while something else keeps it busy: how soon it answers, and what memory it has."""

from __future__ import annotations

import http.client
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

__all__ = ["HealthWatch", "tree_mib"]

EVERY_S = 0.02
PATIENCE_S = 30.0


class HealthWatch:
    """A process of its own that asks for the health all the time: the load would delay a thread of its generator.

    Attributes, known after the context has ended:
        answers, failed: how many answers came, and how many did not or were no 200.
        worst_ms, p99_ms: how long they took.
    """

    def __init__(self, url: str) -> None:
        self.answers = self.failed = 0
        self.worst_ms = self.p99_ms = 0.0
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_watch, args=(url, theirs), daemon=True)

    def __enter__(self) -> HealthWatch:
        self._process.start()
        self._ours.recv()  # it has started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.send(None)
        took_s, self.failed = self._ours.recv()
        self._process.join()
        self.answers = len(took_s)
        if took_s:
            self.worst_ms = max(took_s) * 1000
            self.p99_ms = sorted(took_s)[int(0.99 * (len(took_s) - 1))] * 1000


def _watch(url: str, parent: Connection) -> None:
    address = urlsplit(url)
    took_s: list[float] = []
    failed = 0
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE_S)
    parent.send(None)
    while not parent.poll(EVERY_S):
        began = time.perf_counter()
        try:
            connection.request("GET", "/v2/health/live")
            answer = connection.getresponse()
            answer.read()
            failed += answer.status != 200
        except OSError:
            failed += 1
            connection.close()
        took_s.append(time.perf_counter() - began)
    parent.send((took_s, failed))


def tree_mib(pid: int) -> float:
    """Memory of a process and its descendants in MiB; what several share counts once."""
    total, pending = 0, [pid]
    while pending:
        one = pending.pop()
        try:
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
            pending += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
        except OSError:
            continue  # it has just ended
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024
