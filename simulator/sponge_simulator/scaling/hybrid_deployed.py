"""Sponge on several replicas, their number decided by what a deployed operator hears.

`hybrid` knows all arrivals at once. In a cluster, requests are dealt out to the pods without looking, and each server
tells the load of its own share: of the requests that it has admitted and of those that it has refused. A share has
fuller batches less often, and its rate is known less well, so that the loads of all shares are more than that of one
queue. A server renews what it tells once a second, and the operator looks once a second, so it hears what was true
about a second ago.
"""

from __future__ import annotations

import math
import random

from sponge_core.edf_queue import Request
from sponge_core.forecast import Forecaster
from sponge_core.planning.steady_state import load_cores
from sponge_simulator.scaling.hybrid import HORIZON_S, Hybrid, missed_share
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["HybridDeployed"]

LOOK_S = 1.0
"""Between two looks at the number of pods, and between two loads that a server works out."""


class _Share:
    """What one server knows of its requests."""

    def __init__(self) -> None:
        self.admitted, self.refused = Forecaster(), Forecaster()

    def load(self, state: Observation, service: Service) -> float:
        """The cores that it takes, as `sponge_server.control.projector` works them out."""
        rate = self.admitted.rate(state.now) + self.refused.rate(state.now)
        arrivals, models = self.admitted.forecast(state.now, HORIZON_S), [state.model or service.model]
        return load_cores(arrivals, rate, models, service.sizes, service.max_batch) + service.overhead_cores


class HybridDeployed(Hybrid):
    """Replicas of equal size."""

    def __init__(self, service: Service, look_back_s: float = 1.0) -> None:
        super().__init__(service, look_back_s)
        self._draw = random.Random(1)
        self._shares = [_Share()]
        self._arrived: list[tuple[float, Request]] = []
        self._looked_at, self._looks, self._wanted = -math.inf, 0, 1
        self._told: tuple[float, float] | None = None

    def arrived(self, now: float, request: Request) -> None:
        self._arrived.append((now, request))

    def plan(self, state: Observation) -> Size:
        refused, serving = {request.id for request in state.refused}, max(1, state.ready)
        self._shares += [_Share() for _ in range(serving - len(self._shares))]
        for at, request in self._arrived:
            share = self._shares[self._draw.randrange(serving)]
            if request.id in refused:
                share.refused.observe(at, request.deadline - at, size=request.size)
            else:
                share.admitted.observe(at, request.deadline - at, size=request.size)
                self._forecaster.observe(at, request.deadline - at, size=request.size)
        self._arrived.clear()
        return super().plan(state)

    def _number(self, state: Observation, cores_per_rate: float) -> int:  # noqa: ARG002
        if state.now - self._looked_at < LOOK_S - 1e-9:
            return self._wanted
        self._looked_at, self._looks = state.now, self._looks + 1
        shares = self._shares[: max(1, state.ready)]
        load = sum([share.load(state, self._service) for share in shares])
        refused = HORIZON_S * sum([share.refused.rate(state.now) for share in shares])
        told = load, load * missed_share(self._missed + refused, self._expected + refused)
        (load, missed_cores), self._told = self._told or told, told
        self._wanted = self._decided(state, self._looks * LOOK_S, LOOK_S, (load, load), missed_cores)
        return self._wanted
