"""A fixed size, as a service without an autoscaler has."""

from __future__ import annotations

from sponge_core.edf_queue import Request
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["Static"]


class Static:
    """Replicas of `cores` at all times, one unless given, with batches as large as the service allows."""

    interval_s = 60.0
    dispatch = "edf-single-lane"

    def __init__(self, service: Service, cores: float, replicas: int = 1) -> None:
        self._size = Size(cores, service.max_batch, replicas)

    def arrived(self, now: float, request: Request) -> None:
        """Ignores arrivals."""

    def plan(self, state: Observation) -> Size:  # noqa: ARG002 - the protocol's
        return self._size
