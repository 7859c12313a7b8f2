"""Autothrottle's Captain: the quota follows the share of periods in which the kernel throttles the service.

Source: "Autothrottle" (NSDI 2024, arXiv 2212.12180) and its repository microsoft/autothrottle, `worker-daemon.py`,
whose constants these are. Every period of 100 ms gives a sample of CPU use and of throttling. Once a second:
- The margin grows by the throttle ratio minus the target, and never falls below 0.
- A ratio above three times the target multiplies the quota by 1 + (ratio - 3 target).
- Else the proposal is the highest use of the last 5 s plus margin times the standard deviation. Where that is at
  most 0.9 of the quota, it is the new quota, but no less than half of the old one.
- In the second after a shrink, a ratio above three times the target takes the shrink back, gives as much on top, and
  raises the margin.

Captain needs a server that does not know its quota: one whose threads follow the quota is never throttled, and shows
nothing. So its server has a thread for each core of the largest size, and the kernel's periods are simulated.

Autothrottle's other half, the Tower, learns online which target keeps the SLO at the least CPU, by a contextual bandit.
Here a target is fixed for a run: `captain-0.1` has 0.1. To read the best of several targets in each experiment
flatters the Tower, which has to find it. Sizes are rounded up to the service's steps, and take the time of a resize, as
for all policies; the original writes the quota itself, at once and in any fraction.
"""

from __future__ import annotations

from collections import deque
from statistics import fmean, stdev

from sponge_core.cpu_sharing import CFS_PERIOD_S
from sponge_core.edf_queue import Request
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["Captain", "QuotaControl"]

PERIODS = 10
"""Periods between decisions, and as many make a throttle ratio."""

USE_PERIODS = 50
TOLERATED = 3.0
"""The quota grows, or a shrink is taken back, above so many times the target."""

SHRINK_FROM, SHRINK_TO = 0.9, 0.5
FIRST_MARGIN = 3.0
TARGET = 0.1


class QuotaControl:
    """The controller of one service, period by period.

    Args:
        target: the throttle ratio to keep, from 0 to 1.
        quota: the first quota in cores.
        least, most: the bounds of the quota in cores.
    """

    def __init__(self, target: float, quota: float, least: float, most: float) -> None:
        self._target = target
        self._least, self._most = least, most
        self._throttled = deque([0.0] * PERIODS, PERIODS)
        self._used = deque([0.0] * USE_PERIODS, USE_PERIODS)
        self._before_shrink: float | None = None
        self._period = 0
        self.quota = quota
        self.margin = FIRST_MARGIN

    def period(self, throttled: float, used_cores: float) -> float:
        """Adds a period, 1 if it was throttled and else 0, with its mean use in cores; returns the quota."""
        self._throttled.append(throttled)
        self._used.append(used_cores)
        self._period += 1
        excess = fmean(self._throttled) - self._target
        if self._before_shrink is not None and self._too_much(excess):
            self._set(2 * self._before_shrink - self.quota)
            self.margin += excess
            self._before_shrink = None
            self._forget()
        if self._period % PERIODS == 0:
            self._decide(fmean(self._throttled) - self._target)
            self._forget()
        return self.quota

    def _decide(self, excess: float) -> None:
        self._before_shrink = None
        self.margin = max(0.0, self.margin + excess)
        if self._too_much(excess):
            self._set(self.quota * (1 + excess - (TOLERATED - 1) * self._target))
            return
        proposal = max(self._used) + self.margin * stdev(self._used)
        if proposal <= SHRINK_FROM * self.quota:
            self._before_shrink = self.quota
            self._set(max(SHRINK_TO * self.quota, proposal))

    def _too_much(self, excess: float) -> bool:
        return excess + self._target > TOLERATED * self._target

    def _set(self, quota: float) -> None:
        self.quota = min(self._most, max(self._least, quota))

    def _forget(self) -> None:
        self._throttled.extend([0.0] * PERIODS)


class Captain:
    """One replica with a server of `max_cores` threads."""

    interval_s = CFS_PERIOD_S
    dispatch = "fifo"

    def __init__(self, service: Service, target: float = TARGET) -> None:
        self._service = service
        self._threads = max(1, int(service.max_cores))
        self._target = target
        self._control: QuotaControl | None = None

    def arrived(self, now: float, request: Request) -> None:
        """Ignores requests and looks only at the kernel's counters."""

    def plan(self, state: Observation) -> Size:
        sizes = self._service.sizes
        if self._control is None:
            self._control = QuotaControl(self._target, state.size.cores, sizes[0], sizes[-1])
            quota = state.size.cores
        else:
            quota = self._control.period(min(1.0, state.throttled_periods), state.used_cores)
        cores = next((size for size in sizes if size >= quota - 1e-9), sizes[-1])
        return Size(cores, self._service.max_batch, threads=self._threads)
