"""HAS-GPU's hybrid rule, with cores in place of GPU shares: a filtered rate, vertical scaling first, then replicas.

Source: "HAS-GPU: Efficient Hybrid Auto-scaling with Fine-grained GPU Allocation" (2025). A Kalman filter smooths the
rate (process noise 1, measurement noise 10). Above 90 % of the capacity the service grows, first in place and then by
replicas; below 30 % it shrinks, at the earliest 10 s after the last change.
"""

from __future__ import annotations

import math

from sponge_core.edf_queue import Request
from sponge_core.planning.steady_state import Configuration
from sponge_simulator.scaling.arrival_history import ArrivalCounts, WorstNetwork
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.steady_state import most_throughput

__all__ = ["Has", "KalmanRate"]

UP, DOWN = 0.9, 0.3
COOLDOWN_S = 10.0


class KalmanRate:
    """A one-dimensional Kalman filter of a random walk."""

    def __init__(self, process_noise: float = 1.0, measurement_noise: float = 10.0) -> None:
        self._process_noise = process_noise
        self._measurement_noise = measurement_noise
        self._variance = 1.0
        self.rate = 0.0

    def update(self, measured: float) -> float:
        """Adds a measurement and returns the filtered rate."""
        self._variance += self._process_noise
        gain = self._variance / (self._variance + self._measurement_noise)
        self.rate += gain * (measured - self.rate)
        self._variance *= 1 - gain
        return self.rate


class Has:
    """Replicas of equal size, with batches as large as the deadline allows."""

    interval_s = 1.0
    dispatch = "fifo"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts = ArrivalCounts(1)
        self._network = WorstNetwork()
        self._filter = KalmanRate()
        self._changed_at = -math.inf

    def arrived(self, now: float, request: Request) -> None:
        self._counts.arrived(now)
        self._network.arrived(now, request)

    def plan(self, state: Observation) -> Size:
        size = state.size
        rate = self._filter.update(self._counts.mean(state.now))
        left_s = self._service.slo_s - self._network.read()
        carried = self._carried(size, rate, left_s)
        load = rate / carried if carried else math.inf
        if load > UP or (load < DOWN and state.now - self._changed_at >= COOLDOWN_S):
            wanted = self._smallest(rate, left_s)
        else:
            return size
        if wanted != size:
            self._changed_at = state.now
        return wanted

    def _best(self, cores: float, rate: float, left_s: float) -> Configuration | None:
        return most_throughput(self._service, cores, max(rate, 1.0), left_s)

    def _carried(self, size: Size, rate: float, left_s: float) -> float:
        best = self._best(size.cores, rate, left_s)
        return best.throughput * size.replicas if best else 0.0

    def _smallest(self, rate: float, left_s: float) -> Size:
        """The fewest replicas, then the smallest size, whose load stays below `UP`."""
        service = self._service
        for replicas in range(1, service.max_replicas + 1):
            for cores in service.sizes:
                best = self._best(cores, rate, left_s)
                if best is not None and rate <= UP * best.throughput * replicas:
                    return Size(cores, best.batch, replicas)
        return Size(service.sizes[-1], service.max_batch, service.max_replicas)
