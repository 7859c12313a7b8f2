"""Decides which requests to launch now, and on how many threads each batch runs.

A pure function of the queue, the running batches, the cores and the latency model. Knows nothing of sockets, torch or
Kubernetes, and never reads a clock: the server calls it with the loop's time, an experiment with virtual time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sponge_core.latency import LatencyModel
from sponge_core.queueing import EdfQueue, Request
from sponge_core.running import Running

__all__ = ["Decision", "Launch", "Limits", "Shed", "decide"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a decision.

    Attributes:
        batch_cap: largest batch, >= 1 (the planner's b, never above what the model takes).
        lanes: lanes that exist and are healthy, >= 1: at most so many batches run at once.
        max_cores: the most cores that the plan may still give; a request is shed only if it is hopeless on these.
    """

    batch_cap: int
    lanes: int
    max_cores: float


@dataclass(frozen=True, slots=True)
class Launch:
    """One batch to start now."""

    requests: tuple[Request, ...]  # earliest deadline first
    threads: int  # k of this batch; the sum over running batches stays within the thread budget
    work_s: float  # predicted seconds at full speed


@dataclass(frozen=True, slots=True)
class Shed:
    """A request that cannot be met; answer it now."""

    request: Request
    reason: Literal["hopeless", "expired"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now. Every queued request is in at most one of `launches` and `sheds`; the rest keep waiting."""

    launches: tuple[Launch, ...]
    sheds: tuple[Shed, ...]
    wake_at: float | None  # decide again then, even if nothing happens before; None: nothing to wait for


def decide(
    now: float, queue: EdfQueue, running: Sequence[Running], cores: float, model: LatencyModel, limits: Limits
) -> Decision:
    """Launches, sheds or waits, under moldable EDF. The queue is read, not changed.

    Args:
        now: seconds on the caller's clock; deadlines in `queue` and `running` are on the same one.
        running: the batches that run now, with their work left.
        cores: the quota in force, > 0, may be a fraction.
    """
    raise NotImplementedError
