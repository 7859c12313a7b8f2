"""InferLine: a configuration planned once at low frequency, and a reactive number of replicas.

Source: "InferLine: Latency-aware Provisioning and Scaling for Prediction Serving Pipelines" (SoCC 2020), single stage.
Its planner starts from the fastest configuration and takes any step (a larger batch, smaller hardware) that lowers the
cost while the deadline holds. With one stage and cores as hardware it ends at the cheapest feasible configuration,
which is chosen directly here. Its tuner follows the highest rate of the last 30 s with a fixed headroom, and scales in
when that rate has been lower for as long.
"""

from __future__ import annotations

import math

from sponge_core.edf_queue import Request
from sponge_core.planning.steady_state import configurations
from sponge_simulator.scaling.arrival_history import ArrivalCounts
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["InferLine"]

WINDOW_S = 30
UTILISATION = 0.85
"""Fraction of a replica's throughput to plan with."""

NETWORK_SHARE = 0.25
"""Fraction of the SLO left to the network, because the plan is made only once."""


class InferLine:
    """Replicas of the planned size."""

    interval_s = 1.0
    dispatch = "fifo"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts = ArrivalCounts(WINDOW_S)
        left_s = (1 - NETWORK_SHARE) * service.slo_s
        options = configurations(service.model, service.sizes, service.batches, service.rate, left_s)
        self._planned = max(options, key=lambda option: option.per_core, default=None)

    def arrived(self, now: float, request: Request) -> None:  # noqa: ARG002 - the protocol's
        self._counts.arrived(now)

    def plan(self, state: Observation) -> Size:
        planned = self._planned
        if planned is None:  # no configuration meets the SLO: the largest size is the best available
            return Size(self._service.sizes[-1], 1, 1)
        rate = max(self._counts.peak(state.now), self._service.rate if state.now < WINDOW_S else 0.0)
        replicas = math.ceil(rate / (planned.throughput * UTILISATION))
        return Size(planned.cores, planned.batch, min(max(replicas, 1), self._service.max_replicas))
