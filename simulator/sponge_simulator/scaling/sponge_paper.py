"""Sponge as in the paper: its integer program once a second, one batch at a time on all cores, nothing dropped.

Source: "Sponge: Inference Serving with Dynamic SLOs Using In-Place Vertical Scaling" (EuroMLSys 2024). As in its
prototype, the rate is given, the worst network delay is that of the last second's requests, and an infeasible second
keeps the last plan.
"""

from __future__ import annotations

from sponge_core.edf_queue import Request
from sponge_core.planning.paper import PaperPlanner
from sponge_simulator.scaling.arrival_history import WorstNetwork
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["SpongePaper"]


class SpongePaper:
    """One replica, with cores and batch from the paper's program."""

    interval_s = 1.0
    dispatch = "edf-single-lane"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._planner = PaperPlanner(service.model, int(service.max_cores), service.max_batch)
        self._network = WorstNetwork()

    def arrived(self, now: float, request: Request) -> None:
        self._network.arrived(now, request)

    def plan(self, state: Observation) -> Size:
        plan = self._planner.plan(self._service.rate, self._service.slo_s, self._network.read())
        return Size(float(plan.cores), plan.batch) if plan.feasible else state.size
