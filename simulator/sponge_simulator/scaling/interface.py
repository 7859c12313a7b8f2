"""What a scaling policy is told, and what it answers.

Plain data and one protocol. Knows neither the simulator nor any policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sponge_core.cpu_sharing import Running
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel

__all__ = ["Observation", "ScalingPolicy", "Service", "Size"]


@dataclass(frozen=True, slots=True)
class Service:
    """What is known of a service before its first request.

    Attributes:
        slo_s: end to end; a request may have less or more.
        rate: mean requests per second, for policies that are given it instead of measuring it.
        max_cores: the largest size of one replica; `min_cores` its smallest and `step_cores` the distance between.
        cold_start_s: from asking for a replica until it serves.
        resize_s: from asking for a size until it is in force.
        idle_cores: what is left of an idle replica after `idle_after_s` without requests; None: it is never parked.
        overhead_cores: cores of a replica's size that are used beside the batches, by receiving, planning, answering.
    """

    model: LatencyModel
    slo_s: float
    rate: float
    max_batch: int = 8
    min_cores: float = 1.0
    max_cores: float = 16.0
    step_cores: float = 1.0
    max_replicas: int = 16
    cold_start_s: float = 6.0
    resize_s: float = 0.03
    idle_cores: float | None = None
    idle_after_s: float = 60.0
    overhead_cores: float = 0.0

    @property
    def sizes(self) -> tuple[float, ...]:
        """Every size of a replica, ascending."""
        steps = round((self.max_cores - self.min_cores) / self.step_cores)
        return tuple(self.min_cores + self.step_cores * step for step in range(steps + 1))


@dataclass(frozen=True, slots=True)
class Size:
    """What a policy asks for, or what is in force: replicas of so many cores, with batches up to the cap.

    `until_request`: the next request is planned for at once, as whoever waits for it says so. Only then may there be no
    replica.
    """

    cores: float
    batch_cap: int
    replicas: int = 1
    until_request: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy sees of the service when it is asked.

    Attributes:
        queue: the waiting requests of the whole service.
        running: the batches that run, on all replicas.
        size: in force; replicas that still start are among its `replicas`.
        ready: replicas that serve.
        used_cores: mean CPU in use since the last plan, as a metrics server would report it.
        in_flight: mean number of requests waiting or running since the last plan.
        uploads: requests whose headers are here and whose body is still coming, ascending.
        model: the service's, as its servers have corrected it by now; None where none does.
    """

    now: float
    queue: EdfQueue
    running: tuple[Running, ...]
    size: Size
    ready: int
    used_cores: float
    in_flight: float
    uploads: tuple[Arrival, ...] = ()
    model: LatencyModel | None = None


class ScalingPolicy(Protocol):
    """Decides how many replicas of how many cores; `dispatch` names the rule by which its servers form batches."""

    interval_s: float
    dispatch: str

    def arrived(self, now: float, request: Request) -> None:
        """A request reached the service."""

    def plan(self, state: Observation) -> Size:
        """The size to have from now on; asked every `interval_s`."""
