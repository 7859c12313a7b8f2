"""HarmonyBatch: applications of different SLOs share a model, and are grouped so that their batches cost the least.

Source: "HarmonyBatch: Batching multi-SLO DNN Inference with Heterogeneous Serverless Functions" (IWQoS 2024). Every
application starts as a group of its own; of those next to each other by SLO, the two whose union saves the most are
merged, until no union saves. A group waits for a batch at most until the earliest of its applications' timeouts, each
as late as its SLO allows, and of two applications these come to an equivalent timeout of T1 + n2*(1 - exp(-r1*(T2 -
T1)))/r1, with n2 the second's share of the rate. A batch is no larger than that timeout fills. An application is an SLO
class here, and a function a replica of one core; the GPU functions are left out.
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
    """Requests of one SLO: `left_s` is what the network leaves of it."""

    left_s: float
    rate: float


@dataclass(frozen=True, slots=True)
class Group:
    """Applications whose requests share batches of up to `batch`, which take `latency_s`."""

    applications: tuple[Application, ...]  # ascending in left_s
    batch: int
    latency_s: float

    @property
    def busy_cores(self) -> float:
        """Cores in use on average: what functions that are billed by use would cost."""
        return sum(application.rate for application in self.applications) * self.latency_s / self.batch


def grouped(applications: Sequence[Application], model: LatencyModel, max_batch: int) -> list[Group]:
    """The groups at which merging ends."""
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
    """The cheapest batch that is filled and done in time; single requests where none is in time."""
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
    """Replicas of one core; their number is what the groups' batches keep busy, with a margin."""

    interval_s = 1.0
    # A batch waits until its first request's time is up: their timeouts, "as late as allowed".
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
