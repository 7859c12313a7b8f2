"""FA2: horizontal scaling with one-core replicas and the batch size that the deadline allows.

Source: "FA2: Fast, Accurate Autoscaling for Serving Deep Learning Inference with SLA Guarantees" (RTAS 2022), for a
single stage, in the form that the prototype of the Sponge paper compared with. A new replica serves after a cold start.
A replica is removed only after the plan has asked for fewer for the whole wait.
"""

from __future__ import annotations

import math

from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_simulator.scaling.arrival_history import WorstNetwork
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["Fa2", "fa2_plan"]

SLO_SHARE = 0.9
SCALE_IN_WAIT_S = 10.0


def fa2_plan(
    model: LatencyModel, rate: float, slo_s: float, network_s: float, max_replicas: int, max_batch: int
) -> tuple[int, int] | None:
    """The fewest one-core replicas, then the smallest batch, that answer a second's requests in time; None: infeasible.

    A replica must fit floor(q/l) batches into q, the part of the SLO that the network leaves. All rounds of a second's
    requests plus one that is running must end within 0.9 of the SLO. As in the prototype, latencies are truncated to
    whole milliseconds.

    Args:
        rate: requests per second.
        slo_s: the SLO, end to end, in seconds.
        network_s: the worst network delay, in seconds.
    """
    left_s = slo_s - network_s
    for replicas in range(1, max_replicas + 1):
        for batch in range(1, max_batch + 1):
            took_s = math.floor(model.latency(batch, 1) * 1000 + 1e-9) / 1000
            if took_s > left_s:
                break
            rounds = math.ceil(rate / (batch * replicas))
            keeps_up = replicas * math.floor(left_s / took_s) * batch >= rate
            if keeps_up and took_s * (rounds + 1) + network_s < SLO_SHARE * slo_s - 1e-9:
                return replicas, batch
    return None


class Fa2:
    """Replicas of one core; an infeasible second keeps the last plan."""

    interval_s = 1.0
    dispatch = "edf-single-lane"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._network = WorstNetwork()
        self._fewer_since: float | None = None

    def arrived(self, now: float, request: Request) -> None:
        self._network.arrived(now, request)

    def plan(self, state: Observation) -> Size:
        service = self._service
        found = fa2_plan(
            service.model, service.rate, service.slo_s, self._network.read(), service.max_replicas, service.max_batch
        )
        if found is None:
            return state.size
        replicas, batch = found
        if replicas >= state.size.replicas:
            self._fewer_since = None
            return Size(1.0, batch, replicas)
        self._fewer_since = state.now if self._fewer_since is None else self._fewer_since
        if state.now - self._fewer_since < SCALE_IN_WAIT_S:
            replicas = state.size.replicas
        return Size(1.0, batch, replicas)
