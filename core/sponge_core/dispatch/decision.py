"""What a dispatch policy is given, and what it decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sponge_core.cpu_sharing import Running
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel

__all__ = ["Decision", "DispatchState", "Launch", "Limits", "Shed", "Variant", "shed_lost"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a decision.

    Attributes:
        batch_cap: the largest batch of any model, >= 1 (the plan's b); a model may take less.
        lanes: the number of healthy lanes, >= 1, which is the most batches that run at once.
        max_cores: the largest size that a plan may choose; a request is shed only if it is hopeless on that.
        servers: how many servers of this size take their requests from the queue, >= 1. Its arrivals are the load of
            them all, so one server alone is not overloaded by them.
    """

    batch_cap: int
    lanes: int
    max_cores: float
    servers: int = 1


class Variant(NamedTuple):
    """A cheaper way to answer a model's requests: its accuracy in (0, 1], and its latency model."""

    accuracy: float
    latency: LatencyModel


class DispatchState(NamedTuple):
    """The state of a server when a policy decides.

    Attributes:
        now: seconds on the caller's clock; the deadlines of `queue` and `running` are on the same one.
        queue: the waiting requests; a policy reads it and does not change it.
        running: the running batches with their work left.
        cores: the CPU quota in force, > 0, possibly a fraction.
        models: the latency models, by `Request.model`.
        limits: the bounds of the decision.
        variants: by model: its cheaper variants, each less accurate and faster than the one before. A policy may ignore
            them; empty: no model has any.
    """

    now: float
    queue: EdfQueue
    running: Sequence[Running]
    cores: float
    models: Sequence[LatencyModel]
    limits: Limits
    variants: Sequence[Sequence[Variant]] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """One batch to start now, on the model itself (`variant` 0) or on one of its cheaper variants (1, 2, ...)."""

    requests: tuple[Request, ...]  # of one model, earliest deadline first
    threads: int  # the sum over all running batches stays within the thread budget
    work_s: float  # predicted seconds at full speed
    variant: int = 0


@dataclass(frozen=True, slots=True)
class Shed:
    """A request to refuse now.

    The reason is `hopeless` if no size could have answered it in time even on its arrival, `expired` if it became
    impossible while it waited, and `sacrificed` if under overload it would have cost other requests more than it is
    worth.
    """

    request: Request
    reason: Literal["hopeless", "expired", "sacrificed"]


def shed_lost(request: Request, fastest_s: float) -> Shed:
    """The refusal of a request that can no longer be met. `fastest_s`: what it takes alone, at the largest size."""
    return Shed(request, "hopeless" if request.deadline - request.arrival < fastest_s else "expired")


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now. Each queued request is in at most one of `launches` and `sheds`; the others keep waiting."""

    launches: tuple[Launch, ...]
    sheds: tuple[Shed, ...]
    wake_at: float | None  # decide again at this time even if nothing happens before; None: no need to
