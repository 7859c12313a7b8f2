"""Whether the watches live, seen from the requests that keep them open.

A watch that has died looks like a cluster in which nothing happens. But each stream of a watch that lives ends after a
short while, and the next one has to be asked for. So no object has to change for anybody to notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp

__all__ = ["DEAD_S", "STREAM_S", "Pulse", "Pulses"]

STREAM_S = 20
"""How long one stream of a watch lasts. An integer: the API server refuses 20.0."""

DEAD_S = 50.0
"""Longer than a watch that lives needs from one stream to the next, with its pauses after failures."""


@dataclass(slots=True)
class Pulse:
    """Whether a watch works; times in seconds on one clock.

    Attributes:
        well_at: when nothing was wrong for the last time, or when only the API server was to blame.
    """

    well_at: float

    def answered(self, now: float, status: int) -> None:
        """A request was answered with this HTTP status; 0 for no answer.

        A new process would help against a refused token, but not while the API server is away, busy or lacks the kind.
        """
        if status < 400 or status in (404, 410, 429) or status >= 500:
            self.well_at = now

    def is_dead(self, now: float) -> bool:
        return now - self.well_at > DEAD_S


class Pulses:
    """The pulses of all watches that should run, by the path of their requests."""

    def __init__(self, paths: Iterable[str], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pulses = {path: Pulse(clock()) for path in paths}

    def dead(self) -> list[str]:
        """The paths of those that do not work."""
        now = self._clock()
        return [path for path, pulse in self._pulses.items() if pulse.is_dead(now)]

    def trace(self) -> aiohttp.TraceConfig:
        """For the session that carries the watches."""
        trace = aiohttp.TraceConfig()

        async def ended(_: aiohttp.ClientSession, __: SimpleNamespace, params: aiohttp.TraceRequestEndParams) -> None:
            self.answered(params.url.path, params.response.status)

        async def failed(
            _: aiohttp.ClientSession, __: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams
        ) -> None:
            self.answered(params.url.path, 0)

        trace.on_request_end.append(ended)
        trace.on_request_exception.append(failed)
        return trace

    def answered(self, path: str, status: int) -> None:
        """A list or a watch at this path has begun, or was refused with this HTTP status; 0 for no answer."""
        if (pulse := self._pulses.get(path)) is not None:
            pulse.answered(self._clock(), status)
