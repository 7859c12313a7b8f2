"""The control loop of one server: observe, recommend, allocate, resize.

The operator runs it for each pod, the local demo and the benchmarks for a server in a local cgroup. The server holds
the long poll back until something is urgent, so the loop reacts to a burst within milliseconds, and an idle server
costs one request a second. While a server does not answer, its size is kept: no decision uses an old state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from sponge_core.control_api import ApplyRequest, StateSnapshot
from sponge_core.planning.decider import Recommendation
from sponge_operator.autoscale import resize
from sponge_operator.autoscale.look import Allocation, Look, Observation, ResizeOutcome
from sponge_operator.autoscale.paper_recommender import PaperRecommender
from sponge_operator.autoscale.recommender import Recommender, SizingSpec, parked, sizes_under, under_ceiling
from sponge_operator.autoscale.resizer import ResizeBudget, Resizer
from sponge_operator.autoscale.target import ResizableTarget
from sponge_operator.clients.server import ControlClient, ServerError

__all__ = ["ControlLoop", "Host", "LoopSettings", "Standalone"]

SHORTEST_GAP_S = 0.02
"""Between two looks at a server; an urgent state answers every long poll at once."""

BLOCKED_GAP_S = 0.2
"""The same where a look cannot change anything: resizing is not allowed, or no larger size is available."""

RETRY_S = 0.5
"""Before an unreachable server is polled again."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Times of the loop.

    Attributes:
        poll_s: how long a server may hold back its state when nothing is urgent.
        actuate_timeout_s: how long the loop waits for one resize before it looks again.
        apply_timeout_s: how long a server may take until its running batches fit a smaller budget; the quota waits.
    """

    poll_s: float = 1.0
    actuate_timeout_s: float = 2.0
    apply_timeout_s: float = 2.0


class Host(Protocol):
    """What the loop needs from its surroundings."""

    def spec(self) -> SizingSpec:
        """How the server may be sized; read at every look."""
        ...

    def allocate(self, observation: Observation, recommendation: Recommendation, spec: SizingSpec) -> Allocation:
        """What the server gets now of the recommended size."""
        ...

    def concluded(self, look: Look) -> None:
        """A look has ended."""
        ...


class Standalone:
    """A `Host` for a server that shares its machine with no other; counts its resizes."""

    def __init__(self, spec: SizingSpec) -> None:
        self._spec = spec
        self.resizes = 0

    def spec(self) -> SizingSpec:
        return self._spec

    def allocate(self, observation: Observation, recommendation: Recommendation, spec: SizingSpec) -> Allocation:  # noqa: ARG002
        return Allocation(recommendation)

    def concluded(self, look: Look) -> None:
        self.resizes += look.outcome is not None and look.outcome.kind == "actuated"


class ControlLoop:
    """Keeps one server at its size; `run` until cancelled.

    Args:
        clock: monotonic seconds.
        budget: limits the rate of resizes; None for no limit.
    """

    def __init__(
        self,
        target: ResizableTarget,
        control: ControlClient,
        host: Host,
        clock: Callable[[], float],
        settings: LoopSettings = LoopSettings(),
        budget: ResizeBudget | None = None,
    ) -> None:
        self._target = target
        self._control = control
        self._host = host
        self._clock = clock
        self._poll_s = settings.poll_s
        self._resizer = Resizer(
            target,
            control,
            clock,
            actuate_timeout_s=settings.actuate_timeout_s,
            apply_timeout_s=settings.apply_timeout_s,
            budget=budget,
        )
        self._recommender = Recommender(host.spec().look_back_s)
        self._paper = PaperRecommender()
        self._since = 0
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Ends a long poll that is under way; the next look follows at once."""
        self._woken.set()

    async def run(self) -> None:
        """Never returns."""
        # A loop that takes over may find a resize under way: it gets the usual time.
        history = resize.History(patched_at=self._clock())
        while True:
            began = self._clock()
            look = await self._look(history)
            if look.observation is not None:
                history = look.observation.history if look.outcome is None else look.outcome.history
            if _is_refused(look):
                self.wake()  # decide again at once, with the new ceiling
            self._host.concluded(look)
            await asyncio.sleep(max(0.0, began + _gap_s(look) - self._clock()))

    async def _look(self, history: resize.History) -> Look:
        try:
            snapshot = await self._poll()
        except ServerError as error:
            return Look(trouble=str(error))
        self._since = snapshot.version
        spec = self._host.spec()
        observation = self._observe(snapshot, history, spec)
        current = observation.current_milli
        if not snapshot.ready or snapshot.draining or current is None:
            return Look(observation)  # a loading server keeps the size that it started with
        recommendation = self._recommend(observation, current, spec)
        look = Look(observation, recommendation, recommended_in_s=self._clock() - observation.at)
        if not spec.acts:
            return look
        allocation = self._host.allocate(observation, recommendation, spec)
        outcome = await self._resize(observation, allocation.recommendation)
        return replace(
            look,
            allocation=allocation,
            outcome=outcome,
            trouble=outcome.trouble,
            took_s=self._clock() - observation.at,
        )

    async def _poll(self) -> StateSnapshot:
        """The server's state: when something is urgent there, after `poll_s`, or once the loop is woken."""
        url, token, tls = self._target.control_url(), self._target.token, self._target.tls
        if not self._woken.is_set():
            poll = asyncio.ensure_future(self._control.state(url, token, self._since, self._poll_s, tls))
            waking = asyncio.ensure_future(self._woken.wait())
            try:
                await asyncio.wait({poll, waking}, return_when=asyncio.FIRST_COMPLETED)
                if poll.done():
                    return poll.result()
            finally:
                waking.cancel()
                if poll.cancel():
                    await asyncio.wait({poll})
        self._woken.clear()
        return await self._control.state(url, token, self._since, 0.0, tls)

    def _observe(self, snapshot: StateSnapshot, history: resize.History, spec: SizingSpec) -> Observation:
        now = self._clock()
        quota = self._target.observe(snapshot.cpu_quota_milli)
        history = resize.expire(history, now)
        if isinstance(quota, resize.NotResizable) and quota.reason in ("RestartPolicy", "NoLimit"):
            history = replace(history, blocked=resize.Blocked(quota.reason, quota.message))
        sizes = sizes_under(spec.sizes, history.ceiling_milli)
        return Observation(now, snapshot, quota, history, sizes, history.ceiling_milli)

    def _recommend(self, observation: Observation, current_milli: int, spec: SizingSpec) -> Recommendation:
        if spec.look_back_s != self._recommender.look_back_s:
            self._recommender = Recommender(spec.look_back_s)
        snapshot = observation.snapshot
        resting = parked(spec, snapshot.idle_for_s, snapshot.batch_cap)
        if resting is not None:
            return resting
        if spec.slo_s is not None and (spec.policy == "paper" or not snapshot.frontier):
            by_paper = self._paper.recommend(
                observation.at, current_milli, snapshot, observation.sizes, spec.slo_s, spec.max_batch
            )
            if by_paper is not None:
                return under_ceiling(by_paper, current_milli, observation.ceiling_milli)
        return self._recommender.recommend(
            observation.at,
            current_milli,
            snapshot.batch_cap,
            snapshot.frontier,
            observation.sizes,
            observation.ceiling_milli,
        )

    async def _resize(self, observation: Observation, allocated: Recommendation) -> ResizeOutcome:
        goal = ApplyRequest(
            version=observation.snapshot.applied_version + 1,
            cores_milli=allocated.cores_milli,
            batch_cap=allocated.batch_cap,
            sizes=observation.sizes,
        )
        return await self._resizer.carry_out(observation.quota, observation.history, goal)


def _is_refused(look: Look) -> bool:
    return look.outcome is not None and look.outcome.kind in ("deferred", "infeasible", "rejected", "error")


def _gap_s(look: Look) -> float:
    """The shortest time from the start of a look to the next one."""
    if look.trouble:
        return RETRY_S
    if look.observation is None or look.outcome is None:
        return BLOCKED_GAP_S
    if look.observation.snapshot.urgent and look.outcome.kind != "actuated":
        return BLOCKED_GAP_S
    return SHORTEST_GAP_S
