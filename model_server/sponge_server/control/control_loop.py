"""What has to happen again and again: read the quota and the own use of it, renew the frontier, time the loop.

One timer for all of it, so that an idle server wakes up ten times a second and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sponge_server.control.projector import Planner
from sponge_server.control.state_publisher import StateBoard
from sponge_server.engine.cpu_quota import Cores
from sponge_server.engine.self_usage import Overhead
from sponge_server.observability.metrics import Metrics

__all__ = ["Heartbeat"]

BEAT_S = 0.1


class Heartbeat:
    """Beats every `BEAT_S`, and projects earlier when asked to."""

    def __init__(
        self,
        cores: Cores,
        planner: Planner,
        board: StateBoard,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        used_s: Callable[[], float],
        charge: Callable[[float], None],
    ) -> None:
        """`used_s`: CPU time of this process; `charge` gets its cores whenever they change, where there is a quota."""
        self._used_s = used_s
        self._charge = charge
        self._overhead = Overhead(clock(), used_s())
        self._cores = cores
        self._planner = planner
        self._board = board
        self._metrics = metrics
        self._clock = clock
        self._early: asyncio.TimerHandle | None = None

    def request_soon(self, delay_s: float) -> None:
        """Projects within `delay_s` unless that is planned already."""
        if self._early is None:
            self._early = asyncio.get_running_loop().call_later(delay_s, self._project_early)

    async def run(self) -> None:
        """Beats until cancelled."""
        due = self._clock()
        while True:
            due = max(due + BEAT_S, self._clock())
            await asyncio.sleep(due - self._clock())
            now = self._clock()
            self._metrics.loop_lag.observe(max(0.0, now - due))
            self._cores.poll()
            # Without a quota there are other cores for what this process does.
            if self._overhead.observe(now, self._used_s()) and self._cores.quota_milli is not None:
                self._charge(self._overhead.cores)
            if self._planner.due(now):
                self._project(now)

    def _project_early(self) -> None:
        self._project(self._clock())

    def _project(self, now: float) -> None:
        if self._early is not None:  # whoever asked for one soon has it now
            self._early.cancel()
            self._early = None
        self._planner.project(now)
        self._board.publish(news=self._planner.urgent)
