"""Carries out the simulator's scaling policies on a real Deployment, so that a rule is written once.

The policy sees what a gateway in front of the pods would: arrivals, and the number of requests in flight. What it
decides is limited as in the simulator: a pod or a size beyond what all pods may have together has to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.live_baselines.pod_log import PodLog, is_ready, limit_milli
from bench.live_baselines.servers import NAME, NAMESPACE
from sponge_core.edf_queue import EdfQueue, Request
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.resources.manifests import CONTAINER
from sponge_simulator.scaling.interface import Observation, ScalingPolicy, Size

__all__ = ["Gateway", "RuleDriver", "fitting_replicas", "fitting_sizes"]


class Gateway:
    """Requests in flight over time, from the schedule and the answers. All times are seconds of the schedule.

    Args:
        requests: ascending in arrival.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        self._next = 0
        self._arrived: list[Request] = []
        self._in_flight = 0
        self._at = self._since = 0.0
        self._area = 0.0

    def advance(self, now: float) -> list[Request]:
        """The requests that have arrived since the last call."""
        self._enter(now)
        arrived, self._arrived = self._arrived, []
        return arrived

    def answered(self, now: float) -> None:
        """One request has its outcome."""
        self._enter(now)  # most answers come before the next `advance`
        self._count(now, -1)

    def mean_in_flight(self, now: float) -> float:
        """The mean since the last call."""
        self._enter(now)
        self._count(now, 0)
        mean = self._area / (now - self._since) if now > self._since else float(self._in_flight)
        self._since, self._area = now, 0.0
        return mean

    def _enter(self, now: float) -> None:
        while self._next < len(self._requests) and self._requests[self._next].arrival <= now:
            request = self._requests[self._next]
            self._count(request.arrival, 1)
            self._arrived.append(request)
            self._next += 1

    def _count(self, at: float, more: int) -> None:
        # A server may refuse a request before all of it is in: then its answer counts before its arrival.
        self._area += (at - self._at) * max(0, self._in_flight)
        self._at = at
        self._in_flight += more


def fitting_replicas(wanted: int, present: int, held_milli: int, new_milli: int, most_milli: int) -> int:
    """The wanted number of pods, or as many as there is room for.

    Args:
        present: pods that are there and stay.
        held_milli: of all pods, also of those on their way out.
        new_milli: of a new pod.
        most_milli: of all pods together.
    """
    room = max(0, most_milli - held_milli) // new_milli
    return min(wanted, present + room)


def fitting_sizes(wanted: int, sizes: Sequence[int], held: Sequence[int], room: int) -> list[int]:
    """The size for each pod: the wanted one, or the largest of `sizes` with room for it; the first pods come first.

    Args:
        held: the present size of each pod.
        room: what is left beside them; a pod that shrinks leaves its part only once it has.
    """
    granted = []
    for now in held:
        most = now + max(0, room)
        new = wanted if wanted <= most else max((size for size in sizes if now < size <= most), default=now)
        room -= max(0, new - now)
        granted.append(new)
    return granted


class RuleDriver:
    """Runs one policy against the Deployment, until it is cancelled.

    Args:
        policy: has planned its start already.
        start: that plan.
        sizes: what a pod may have, in millicores.
        most_milli: of all pods together.
        new_milli: of a new pod.
    """

    def __init__(
        self,
        kube: Kube,
        pods: PodLog,
        gateway: Gateway,
        policy: ScalingPolicy,
        start: Size,
        sizes: Sequence[int],
        most_milli: int,
        new_milli: int,
    ) -> None:
        self._kube = kube
        self._pods = pods
        self._gateway = gateway
        self._policy = policy
        self._size = start
        self._sizes = sizes
        self._most_milli = most_milli
        self._new_milli = new_milli
        self._replicas = start.replicas

    async def run(self, clock: Callable[[], float]) -> None:
        """Plans and acts at the policy's interval. Raises ApiError.

        Args:
            clock: seconds of the schedule, as the sender counts them: else requests would be in flight before they are.
        """
        step = 0
        while True:
            step += 1
            await asyncio.sleep(max(0.0, step * self._policy.interval_s - clock()))
            now = clock()
            self._hear(self._gateway.advance(now))
            await self._act(self._plan(now))

    def _hear(self, arrived: Iterable[Request]) -> None:
        for request in arrived:
            self._policy.arrived(request.arrival, request)

    def _plan(self, now: float) -> Size:
        serving = self._pods.serving
        in_force = Size(
            max((limit_milli(pod) / 1000 for pod in serving), default=self._size.cores),
            self._size.batch_cap,
            self._replicas,
        )
        ready = sum(map(is_ready, serving))
        in_flight = self._gateway.mean_in_flight(now)
        self._size = self._policy.plan(Observation(now, EdfQueue(), (), in_force, ready, 0.0, in_flight))
        return self._size

    async def _act(self, wanted: Size) -> None:
        serving, most = self._pods.serving, self._most_milli
        milli = [limit_milli(pod) for pod in serving]
        room = most - self._pods.held_milli
        sizes = fitting_sizes(round(1000 * wanted.cores), self._sizes, milli, room)
        for pod, now, size in zip(serving, milli, sizes, strict=True):
            if size != now:
                await self._resize(pod, size)
        replicas = fitting_replicas(wanted.replicas, self._replicas, self._pods.held_milli, self._new_milli, most)
        if replicas != self._replicas:
            self._replicas = replicas
            await self._kube.merge("Deployment", NAMESPACE, NAME, {"spec": {"replicas": replicas}})

    async def _resize(self, pod: Mapping[str, Any], milli: int) -> None:
        try:
            await self._kube.resize(pod, CONTAINER, milli)
        except ApiError as error:
            if error.status not in (404, 409, 422):  # the pod has gone meanwhile
                raise
