"""As in the paper's prototype: one batch at a time on all cores, earliest deadline first, nothing dropped."""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.cpu_sharing import Running, thread_budget
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.moldable_edf import Decision, Limits
from sponge_core.dispatch.policies.plain import Plain
from sponge_core.edf_queue import EdfQueue
from sponge_core.latency import LatencyModel

__all__ = ["EdfSingleLane"]


class EdfSingleLane(Dispatcher):
    """The threads of a batch are the cores; its size is the cap, whatever the slack."""

    def decide(
        self,
        now: float,
        queue: EdfQueue,
        running: Sequence[Running],
        cores: float,
        models: Sequence[LatencyModel],
        limits: Limits,
    ) -> Decision:
        if running:
            return Decision((), (), None)
        # Whole threads only: one that is not there in full would throttle all.
        threads = max(1, int(cores + 1e-9))
        one = Plain(threads=min(threads, thread_budget(cores)), by_deadline=True)
        return one.decide(now, queue, running, float(threads), models, Limits(limits.batch_cap, 1, limits.max_cores))
