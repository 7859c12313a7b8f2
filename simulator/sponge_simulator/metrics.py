"""CPU use of replicas as metrics-server reports it: seldom and late, and nothing of a replica that has just started.

Source: metrics-server 0.9.0, `pkg/server/server.go` and `pkg/storage/pod.go`. It reads how much CPU time each container
has used so far, keeps the last two readings, and reports their difference over the time between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sponge_simulator.replica import Replica

__all__ = ["METRICS_SERVER_S", "MetricsServer", "ReplicaUse", "Scrapes"]

METRICS_SERVER_S = 15.0
"""Between readings: `--metric-resolution` in metrics-server's own manifest."""


@dataclass(frozen=True, slots=True)
class Scrapes:
    """When the CPU time of all replicas is read: at `first_at`, then every `every_s` seconds."""

    first_at: float = 0.0
    every_s: float = METRICS_SERVER_S


@dataclass(frozen=True, slots=True)
class ReplicaUse:
    """What is known of one replica: its mean use in cores over the `window_s` seconds before `at`.

    Attributes:
        ready_at: the time from which the replica serves.
    """

    cores: float
    at: float
    window_s: float
    ready_at: float


class MetricsServer:
    """The last two readings of each replica.

    Args:
        scrapes: when it reads by itself; None: only when somebody has it read.

    Attributes:
        next_at: when it reads next; infinite where it does not by itself.
    """

    def __init__(self, scrapes: Scrapes | None) -> None:
        self._every_s = math.inf if scrapes is None else scrapes.every_s
        self.next_at = math.inf if scrapes is None else scrapes.first_at
        self._at = -math.inf
        self._last: Mapping[Replica, tuple[float, float]] = {}
        self._before: Mapping[Replica, tuple[float, float]] = {}

    def read(self, now: float, replicas: Iterable[Replica]) -> None:
        """Reads the CPU time of the replicas that there are; forgets all others."""
        if now > self._at:
            self._at, self._before, self.next_at = now, self._last, now + self._every_s
            self._last = {replica: (now, replica.used_s(now)) for replica in replicas}

    def uses(self, replicas: Iterable[Replica]) -> tuple[ReplicaUse, ...]:
        """The use of those replicas that have been read twice."""
        found = []
        for replica in replicas:
            if replica in self._last and replica in self._before:
                (at, used_s), (before, had_used_s) = self._last[replica], self._before[replica]
                found.append(ReplicaUse((used_s - had_used_s) / (at - before), at, at - before, replica.ready_at))
        return tuple(found)
