"""HarmonyBatch: groups applications with different SLOs that share a model, so that their batches cost the least.

Source: "HarmonyBatch: Batching multi-SLO DNN Inference with Heterogeneous Serverless Functions" (IWQoS 2024). Each
application starts as its own group. Of the groups that are neighbours by SLO, the pair whose union saves the most is
merged, until no union saves anything. A group waits for a batch at most until the earliest timeout of its applications,
each as late as its SLO allows; for two applications the equivalent timeout is T1 + n2*(1 - exp(-r1*(T2 - T1)))/r1, with
n2 the second one's fraction of the rate. A batch is no larger than the requests of that timeout. Here an application is
an SLO class and a function is a replica of one core; GPU functions are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_simulator.scaling.arrival_history import ArrivalCounts, WorstNetwork
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.steady_state import with_margin

__all__ = ["Application", "Group", "HarmonyBatch", "grouped"]

WINDOW_S = 10
SCALE_IN_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Application:
    """Requests with the same SLO; `left_s` is the part of it that the network leaves, in seconds."""

    left_s: float
    rate: float


@dataclass(frozen=True, slots=True)
class Group:
    """Applications whose requests share batches of up to `batch` requests, which take `latency_s` seconds."""

    applications: tuple[Application, ...]  # ascending in left_s
    batch: int
    latency_s: float

    @property
    def busy_cores(self) -> float:
        """The mean number of busy cores, which is the cost of functions billed by use."""
        return sum(application.rate for application in self.applications) * self.latency_s / self.batch


def grouped(applications: Sequence[Application], model: LatencyModel, max_batch: int) -> list[Group]:
    """Merges applications into groups until no further merge saves cost."""
    by_slo = sorted(applications, key=lambda application: application.left_s)
    groups = [_provisioned((application,), model, max_batch) for application in by_slo]
    while len(groups) > 1:
        unions = [
            _provisioned(first.applications + second.applications, model, max_batch)
            for first, second in pairwise(groups)
        ]
        saved = [groups[i].busy_cores + groups[i + 1].busy_cores - union.busy_cores for i, union in enumerate(unions)]
        best = max(range(len(saved)), key=saved.__getitem__)
        if saved[best] <= 1e-9:
            break
        groups[best : best + 2] = [unions[best]]
    return groups


def _provisioned(applications: tuple[Application, ...], model: LatencyModel, max_batch: int) -> Group:
    """The group with the cheapest batch that fills and ends in time; a batch of 1 if none does."""
    rate = sum(application.rate for application in applications)
    best = Group(applications, 1, model.latency(1, 1))
    for batch in range(2, max_batch + 1):
        latency_s = model.latency(batch, 1)
        if latency_s >= applications[0].left_s or batch > math.floor(rate * _timeout(applications, latency_s)) + 1:
            continue
        if latency_s / batch < best.latency_s / best.batch:
            best = Group(applications, batch, latency_s)
    return best


def _timeout(applications: Sequence[Application], latency_s: float) -> float:
    """The equivalent timeout of a group, in seconds: the mean wait of a batch that never fills."""
    timeout, rate = applications[0].left_s - latency_s, applications[0].rate
    for application in applications[1:]:
        later = application.left_s - latency_s - timeout
        share = application.rate / (rate + application.rate)
        timeout += share * -math.expm1(-rate * later) / rate
        rate += application.rate
    return timeout


class HarmonyBatch:
    """Replicas of one core, as many as the batches of the groups keep busy, plus a margin."""

    interval_s = 1.0
    # A batch waits as late as the deadline of its first request allows, which is their timeout.
    dispatch = "symphony"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts: dict[str, ArrivalCounts] = {}
        self._slo_s: dict[str, float] = {}
        self._network = WorstNetwork()
        self._needed_at: list[tuple[float, int]] = []

    def arrived(self, now: float, request: Request) -> None:
        self._counts.setdefault(request.slo_class, ArrivalCounts(WINDOW_S)).arrived(now)
        self._slo_s[request.slo_class] = request.deadline - request.sent
        self._network.arrived(now, request)

    def plan(self, state: Observation) -> Size:
        service, now = self._service, state.now
        network_s = self._network.read()
        applications = [
            Application(self._slo_s[name] - network_s, rate)
            for name, counts in self._counts.items()
            if (rate := counts.mean(now)) > 0
        ] or [Application(service.slo_s, service.rate)]
        groups = grouped(applications, service.model, service.max_batch)
        needed = sum(math.ceil(with_margin(group.busy_cores)) for group in groups)
        self._needed_at.append((now, needed))
        self._needed_at = [(at, n) for at, n in self._needed_at if at > now - SCALE_IN_WAIT_S]
        replicas = min(service.max_replicas, max(n for _, n in self._needed_at))
        return Size(1.0, max(group.batch for group in groups), replicas)
