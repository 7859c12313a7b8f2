"""The policies that an experiment compares: each sizes the pod and dispatches in it through production code."""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.batching import Decision, Limits, decide
from sponge_core.dispatch import Dispatcher, EdfSingleLane
from sponge_core.forecast import Forecaster
from sponge_core.latency import LatencyModel
from sponge_core.planning.paper import PaperPlanner
from sponge_core.planning.projected import Situation, SizeDecider, project_frontier
from sponge_core.queueing import Request
from sponge_core.running import thread_budget
from sponge_simulator.engine import Size, View

__all__ = ["FixedSize", "PaperPolicy", "SpongePolicy"]


class SpongePolicy:
    """Moldable EDF with the projected planner: what the server and the operator run."""

    def __init__(
        self,
        model: LatencyModel,
        sizes_milli: Sequence[int],
        max_batch: int,
        horizon_s: float = 1.0,
        interval_s: float = 0.1,
        resize_s: float = 0.03,
        look_back_s: float = 1.0,
    ) -> None:
        self.interval_s = interval_s
        self._model = model
        self._sizes = sizes_milli
        self._max_batch = max_batch
        self._horizon_s = horizon_s
        self._resize_s = resize_s
        self._forecaster = Forecaster()
        self._decider = SizeDecider(look_back_s)

    def observe(self, now: float, request: Request) -> None:
        self._forecaster.observe(now, request.deadline - now)

    def _limits(self, cap: int) -> Limits:
        most = self._sizes[-1] / 1000
        return Limits(cap, lanes=max(1, round(most)), max_cores=most)

    def plan(self, view: View) -> Size:
        situation = Situation(
            view.now,
            view.queue.deadlines,
            view.running,
            self._forecaster.forecast(view.now, self._horizon_s),
            view.size.cores,
            self._resize_s,
            slos=view.queue.slos,
        )
        frontier = project_frontier(situation, self._sizes, [self._model], self._limits(self._max_batch))
        plan = self._decider.decide(view.now, round(view.size.cores * 1000), frontier.points)
        return Size(plan.cores_milli / 1000, plan.batch_cap)

    def dispatch(self, view: View) -> Decision:
        return decide(
            view.now, view.queue, view.running, view.size.cores, [self._model], self._limits(view.size.batch_cap)
        )

    def ended(self, requests: Sequence[Request], in_time: bool) -> None:
        """Learns nothing from it."""


class FixedSize:
    """Any dispatch policy on a size that never changes."""

    interval_s = float("inf")

    def __init__(self, dispatcher: Dispatcher, models: Sequence[LatencyModel]) -> None:
        self._dispatcher = dispatcher
        self._models = models

    def observe(self, now: float, request: Request) -> None:
        """Needs to know nothing beforehand."""

    def plan(self, view: View) -> Size:
        return view.size

    def dispatch(self, view: View) -> Decision:
        cores = view.size.cores
        limits = Limits(view.size.batch_cap, thread_budget(cores), cores)
        return self._dispatcher.decide(view.now, view.queue, view.running, cores, self._models, limits)

    def ended(self, requests: Sequence[Request], in_time: bool) -> None:
        self._dispatcher.ended(requests[0].model, len(requests), in_time)


class PaperPolicy:
    """The paper's planner, with its server: one batch at a time on all cores, earliest deadline first, nothing dropped.

    The rate is given, not measured, and the worst network delay is that of the requests seen in the last interval, as
    in the published prototype.
    """

    def __init__(self, model: LatencyModel, rate: float, slo_s: float, max_cores: int, max_batch: int) -> None:
        self.interval_s = 1.0
        self._model = model
        self._rate = rate
        self._slo_s = slo_s
        self._planner = PaperPlanner(model, max_cores, max_batch)
        self._dispatcher = EdfSingleLane()
        self._worst_network_s = 0.0

    def observe(self, now: float, request: Request) -> None:
        self._worst_network_s = max(self._worst_network_s, now - request.sent)

    def plan(self, view: View) -> Size:
        plan = self._planner.plan(self._rate, self._slo_s, self._worst_network_s)
        self._worst_network_s = 0.0
        if not plan.feasible:
            return view.size
        return Size(float(plan.cores), plan.batch)

    def dispatch(self, view: View) -> Decision:
        limits = Limits(view.size.batch_cap, 1, view.size.cores)
        return self._dispatcher.decide(view.now, view.queue, view.running, view.size.cores, [self._model], limits)

    def ended(self, requests: Sequence[Request], in_time: bool) -> None:
        """Learns nothing from it."""
