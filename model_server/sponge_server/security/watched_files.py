"""Reads files again when they change, so that certificates and keys are rotated without a restart.

It compares what `stat` says of each file, because Kubernetes swaps the symbolic links of a Secret and tells nobody. A
content that cannot be used leaves the one before it in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sponge_core.errors import SpongeError
from sponge_server.observability.metrics import Metrics
from sponge_system.logs import event

__all__ = ["WatchedFiles"]

log = logging.getLogger(__name__)

POLL_S = 1.0
"""Between two looks. A look costs some microseconds, and a Secret needs up to a minute to reach its pods."""

Mark = tuple[tuple[int, int, int, int] | None, ...]


@dataclass(slots=True)
class _Watched:
    setting: str
    paths: Sequence[Path]
    load: Callable[[], None]
    seen: Mark
    sound: bool = True


class WatchedFiles:
    """The files of some settings."""

    def __init__(self, metrics: Metrics) -> None:
        self._failures = metrics.reload_failures
        self._watched: list[_Watched] = []

    def add(self, setting: str, paths: Sequence[Path], load: Callable[[], None]) -> None:
        """Loads files now, and again after each change.

        Args:
            setting: names them in the log and in the metric.
            load: reads them and puts their content into force; raises SpongeError and changes nothing if it cannot.

        Raises:
            SpongeError: the first load failed.
        """
        seen = _mark(paths)  # before the load: a change during the load is seen later
        load()
        self._failures.labels(setting)
        self._watched.append(_Watched(setting, paths, load, seen))

    def look(self) -> None:
        """Loads what has changed since the last look."""
        for watched in self._watched:
            mark = _mark(watched.paths)
            is_news = mark != watched.seen
            # What could not be used is tried again: it may have been read while it was being written.
            if is_news or not watched.sound:
                watched.seen = mark
                self._load(watched, is_news)

    async def run(self) -> None:
        """Looks again and again; never returns."""
        while True:
            await asyncio.sleep(POLL_S)
            self.look()

    def _load(self, watched: _Watched, is_news: bool) -> None:
        try:
            watched.load()
        except SpongeError as error:
            watched.sound = False
            if is_news:
                self._failures.labels(watched.setting).inc()
                event(log, "files.refused", logging.ERROR, setting=watched.setting, kept="the former ones", why=error)
        else:
            watched.sound = True
            event(log, "files.reloaded", setting=watched.setting)


def _mark(paths: Sequence[Path]) -> Mark:
    """What tells one version of the files from another; follows symbolic links."""

    def one(path: Path) -> tuple[int, int, int, int] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    return tuple(one(path) for path in paths)
