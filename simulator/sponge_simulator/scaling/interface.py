"""The interface of a scaling policy: what it sees and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.decision import Variant
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel
from sponge_simulator.metrics import ReplicaUse

__all__ = ["Observation", "ScalingPolicy", "Service", "Size"]


@dataclass(frozen=True, slots=True)
class Service:
    """Facts of a service that are known before its first request.

    Attributes:
        model: the latency model.
        slo_s: end to end, in seconds; a single request may have less or more.
        rate: mean requests per second, for policies that do not measure it.
        max_batch: the largest batch.
        min_cores, max_cores, step_cores: the smallest and largest size of one replica, and the distance between sizes.
        max_replicas: the most replicas.
        cold_start_s: seconds from the request for a replica until it serves.
        resize_s: seconds from the request for a size until it is in force.
        idle_cores: the size of a replica after `idle_after_s` without requests; None: it is never parked.
        overhead_cores: cores of a replica that work beside the batches uses (receiving, planning, answering).
        variants: cheaper variants of the model, each less accurate and faster than the one before.
        replica_cores: the size of a replica of systems that scale by replicas of one size.
        startup_cores: the size of a new replica until it serves; what it has beyond `max_cores` comes in place, as far
            as the node has room. None: the size of the others.
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
    variants: tuple[Variant, ...] = ()
    replica_cores: float = 1.0
    startup_cores: float | None = None

    @property
    def sizes(self) -> tuple[float, ...]:
        """All sizes of a replica in cores, ascending."""
        steps = round((self.max_cores - self.min_cores) / self.step_cores)
        return tuple(self.min_cores + self.step_cores * step for step in range(steps + 1))

    @property
    def batches(self) -> range:
        """All batch sizes, ascending."""
        return range(1, self.max_batch + 1)


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a service, wanted or in force: `replicas` replicas of `cores` cores, with batches up to the cap.

    With `until_request` the policy is asked again as soon as the next request arrives. Only then may `replicas` be 0.

    A server runs as many threads as its cores hold, unless `threads` gives it a number of its own. The kernel then
    throttles it in periods of 100 ms.
    """

    cores: float
    batch_cap: int
    replicas: int = 1
    until_request: bool = False
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy sees of its service.

    Attributes:
        now: seconds of virtual time.
        queue: the waiting requests of the whole service.
        running: the running batches of all replicas.
        size: the size in force; its `replicas` include starting ones.
        ready: the number of replicas that serve.
        used_cores: mean CPU use since the last plan, in cores.
        in_flight: mean number of waiting and running requests since the last plan.
        uploads: requests whose headers have arrived and whose body has not, ascending in arrival.
        model: the latency model as the servers have corrected it; None if they do not.
        throttled_periods: periods since the last plan in which the quota was used up while threads wanted more, of all
            replicas together; 0 where quotas are enforced evenly.
        uses: the CPU use of each replica that stays, as metrics-server reports it: of those that it has read twice.
        refused: the requests that servers have not admitted since the last plan.
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
    throttled_periods: int = 0
    uses: tuple[ReplicaUse, ...] = ()
    refused: tuple[Request, ...] = ()


class ScalingPolicy(Protocol):
    """Decides the number and the size of replicas.

    Attributes:
        interval_s: seconds between plans.
        dispatch: name of the dispatch policy of its servers.
    """

    interval_s: float
    dispatch: str

    def arrived(self, now: float, request: Request) -> None:
        """Reports that a request reached the service."""

    def plan(self, state: Observation) -> Size:
        """The size to have from now on; called every `interval_s`."""
