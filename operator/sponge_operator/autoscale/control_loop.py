"""The control loop of one server: observe, recommend, allocate, resize.

The operator runs it for each pod, the local demo and the benchmarks for a server in a local cgroup. The server holds
the long poll back until there is news, so the loop reacts to a burst within milliseconds, and an idle server costs one
request in ten seconds. `wake` makes it look at once: after an edit, or a change of the pod. While a server does not
answer, its size is kept, because no decision uses an old state; but one that starts again gets its startup size.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from sponge_core.control_api import ApplyRequest, StateSnapshot
from sponge_core.planning.decider import Recommendation
from sponge_operator.autoscale import quota_state, resize
from sponge_operator.autoscale.letting_go import release
from sponge_operator.autoscale.look import Allocation, Look, Observation, ResizeOutcome
from sponge_operator.autoscale.pace import HELD, paced, possible
from sponge_operator.autoscale.paper_recommender import PaperRecommender
from sponge_operator.autoscale.profile_walk import ProfileWalk
from sponge_operator.autoscale.recommender import Recommender, SizingSpec, parked, sizes_within
from sponge_operator.autoscale.resize_budget import ResizeBudget
from sponge_operator.autoscale.resizer import Resizer
from sponge_operator.autoscale.target import ResizableTarget
from sponge_operator.clients.server import ControlClient, ServerError

__all__ = ["ControlLoop", "Host", "LoopSettings", "Standalone"]

SHORTEST_GAP_S = 0.01
"""Between two looks at a server; an urgent state answers every long poll at once."""

BLOCKED_GAP_S = 0.2
"""The same where a look cannot change anything: resizing is not allowed, or no larger size is available."""

RETRY_S = 0.5
"""Before an unreachable server is polled again."""

RESTS_S = 10.0
"""A server without requests for this long rests: its figures no longer change, and it reports a request at once."""

DUE_MARGIN_S = 0.002
"""Added to a wait for a shrink that is due, because the look-back includes its own end."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Times of the loop.

    Attributes:
        poll_s: how long a server may hold back its state when there is no news.
        resting_poll_s: the same for a server that has had no request for a while; never longer than the server's
            `fallback_after_s`, within which it should notice that the operator is gone.
        actuate_timeout_s: how long the loop waits for one resize before it looks again.
        apply_timeout_s: how long a server may take until its running batches fit a smaller budget; the quota waits.
    """

    poll_s: float = 1.0
    resting_poll_s: float = 30.0
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


class Memory(Protocol):
    """A memory limit that follows the batch cap; see `memory_keeper`."""

    due: bool

    def bounded(self, allocation: Allocation, snapshot: StateSnapshot) -> Recommendation:
        """The allocated recommendation with the batch cap that the memory in force has room for."""
        ...

    async def follow(self, now: float, snapshot: StateSnapshot | None, batch_cap: int) -> None:
        """Sends the memory resize that is due."""
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
        memory: keeps the memory limit; None where that is fixed.
    """

    def __init__(
        self,
        target: ResizableTarget,
        control: ControlClient,
        host: Host,
        clock: Callable[[], float],
        settings: LoopSettings = LoopSettings(),
        budget: ResizeBudget | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._target = target
        self._control = control
        self._host = host
        self._clock = clock
        self._settings = settings
        self._wait_s = settings.poll_s
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
        self._memory = memory
        self._walk = ProfileWalk(target, control, clock, settings.actuate_timeout_s)
        self._since = 0
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Ends a long poll that is under way; the next look follows at once."""
        self._woken.set()

    async def run(self) -> None:
        """Never returns."""
        # A loop that takes over may find a resize under way: it gets the usual time.
        history = resize.History(patched_at=self._clock())
        self._wait_s = self._settings.poll_s
        while True:
            began = self._clock()
            look = await self._look(history)
            if look.outcome is not None:
                history = look.outcome.history
            elif look.observation is not None:
                history = look.observation.history
            self._host.concluded(look)
            self._wait_s = self._next_wait_s(look)
            await self._pause(began, _gap_s(look))
            if _is_refused(look) or _is_searching(look, self._clock()) or _is_overdue(look):
                self.wake()  # decide again at once: with the new ceiling, or what is wanted by now

    async def _look(self, history: resize.History) -> Look:
        try:
            snapshot = await self._poll()
        except ServerError as error:
            return await self._start(Look(trouble=str(error)), history)
        self._since = snapshot.version
        spec = self._host.spec()
        observation = self._observe(snapshot, history, spec)
        current = observation.current_milli
        if not snapshot.ready or snapshot.draining or current is None:
            return await self._start(Look(observation), observation.history)
        recommendation = self._recommend(observation, current, spec)
        observation = _remember_want(observation, recommendation, current, spec)
        look = Look(observation, recommendation, recommended_in_s=self._clock() - observation.at)
        if not spec.acts:
            if snapshot.applied_milli is not None:
                with contextlib.suppress(ServerError):  # the next look tries again
                    await release(self._target, self._control, snapshot)
            return look
        allocation = self._host.allocate(observation, recommendation, spec)
        given = allocation.recommendation if self._memory is None else self._memory.bounded(allocation, snapshot)
        outcome = await self._resize(observation, given, spec)
        if isinstance(outcome.quota, quota_state.Idle):
            await self._keep_memory(snapshot, max(snapshot.batch_cap, allocation.recommendation.batch_cap))
        return replace(
            look,
            allocation=allocation,
            outcome=outcome,
            trouble=outcome.trouble,
            took_s=self._clock() - observation.at,
        )

    async def _start(self, look: Look, history: resize.History) -> Look:
        """Gives a server that is not ready the size to start with: it may have been shrunk before it was restarted."""
        starting, spec = self._target.starting(), self._host.spec()
        if spec.acts:
            await self._keep_memory(None, 0)
            await self._walk.help(spec)
        if starting is None or not spec.acts or spec.pace.paused == "grow":
            return look
        milli = spec.boost_milli or min(starting.startup_milli, spec.sizes.max_milli)
        ceiling = history.ceiling_milli(self._clock(), starting.has_milli, spec.sizes.step_milli)
        if ceiling is not None:
            milli = min(milli, ceiling)
        if milli <= starting.has_milli:
            return look
        return replace(look, outcome=await self._resizer.start_with(milli, history), starting_milli=milli)

    def _next_wait_s(self, look: Look) -> float:
        """How long the server may hold back its next state."""
        seen, settings = look.observation, self._settings
        if seen is None:
            return settings.poll_s
        now, spec, idle_for_s = self._clock(), self._host.spec(), seen.snapshot.idle_for_s
        settled = isinstance(seen.quota, quota_state.Idle) and (look.outcome is None or look.outcome.kind is None)
        if spec.acts and look.recommendation is not None:
            settled = settled and look.recommendation.cores_milli == seen.current_milli
        history = seen.history if look.outcome is None else look.outcome.history
        free = history.blocked is None and not (look.recommendation and look.recommendation.reason in HELD)
        rests = settled and free and look.recommendation is not None and idle_for_s >= RESTS_S
        wait_s = min(settings.resting_poll_s, spec.fallback_after_s) if rests else settings.poll_s
        if now < history.quiet_until:
            wait_s = min(wait_s, history.quiet_until - now + DUE_MARGIN_S)
        if look.outcome is not None and look.outcome.held:
            wait_s = min(wait_s, BLOCKED_GAP_S)
        if spec.idle_milli is not None and idle_for_s < spec.idle_after_s:
            wait_s = min(wait_s, spec.idle_after_s - idle_for_s)
        if (due_s := self._recommender.due_in(now)) is not None:
            wait_s = min(wait_s, due_s + DUE_MARGIN_S)
        if self._memory is not None and self._memory.due:
            wait_s = min(wait_s, settings.poll_s)
        return wait_s

    async def _pause(self, began: float, gap_s: float) -> None:
        """Waits for `gap_s` since `began`, or less if the loop is woken."""
        await asyncio.sleep(max(0.0, began + SHORTEST_GAP_S - self._clock()))
        left_s = began + gap_s - self._clock()
        if left_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), left_s)

    async def _poll(self) -> StateSnapshot:
        """The server's state: when there is news, when the wait is over, or once the loop is woken."""
        url, token, tls = self._target.control_url(), self._target.token, self._target.tls
        if not self._woken.is_set():
            poll = asyncio.ensure_future(self._control.state(url, token, self._since, self._wait_s, tls))
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
        if isinstance(quota, quota_state.NotResizable) and quota.reason in ("RestartPolicy", "NoLimit"):
            history = replace(history, blocked=resize.Blocked(quota.reason, quota.message))
        has, step = quota_state.actual_milli(quota) or 0, spec.sizes.step_milli
        floor, ceiling = history.floor_milli(now, has, step), history.ceiling_milli(now, has, step)
        sizes = sizes_within(spec.sizes, floor, None if ceiling is None else max(ceiling, has))
        return Observation(now, snapshot, quota, history, sizes, ceiling, floor)

    def _recommend(self, observation: Observation, current_milli: int, spec: SizingSpec) -> Recommendation:
        if spec.look_back_s != self._recommender.look_back_s:
            self._recommender = Recommender(spec.look_back_s)
        sizes, history = observation.sizes, observation.history
        wanted = self._wanted(observation, current_milli, spec)
        wanted = possible(wanted, current_milli, sizes, observation.floor_milli, observation.ceiling_milli)
        return paced(wanted, current_milli, spec.sizes, spec.pace, observation.at, history.grown_at, history.shrunk_at)

    def _wanted(self, observation: Observation, current_milli: int, spec: SizingSpec) -> Recommendation:
        """The size for the load, whatever is possible."""
        snapshot, sizes = observation.snapshot, observation.sizes
        resting = parked(spec, snapshot.idle_for_s, snapshot.batch_cap)
        if resting is not None:
            return resting
        if spec.slo_s is not None and (spec.policy == "paper" or not snapshot.frontier):
            by_paper = self._paper.recommend(observation.at, current_milli, snapshot, sizes, spec.slo_s, spec.max_batch)
            if by_paper is not None:
                return by_paper
        return self._recommender.recommend(observation.at, current_milli, snapshot.batch_cap, snapshot.frontier, sizes)

    async def _keep_memory(self, snapshot: StateSnapshot | None, batch_cap: int) -> None:
        if self._memory is not None:
            await self._memory.follow(self._clock(), snapshot, batch_cap)

    async def _resize(self, observation: Observation, allocated: Recommendation, spec: SizingSpec) -> ResizeOutcome:
        goal = ApplyRequest(
            version=observation.snapshot.applied_version + 1,
            cores_milli=allocated.cores_milli,
            batch_cap=allocated.batch_cap,
            sizes=observation.sizes,
            fallback_after_s=spec.fallback_after_s,
        )
        return await self._resizer.carry_out(observation.quota, observation.history, goal)


def _remember_want(
    observation: Observation, recommendation: Recommendation, current_milli: int, spec: SizingSpec
) -> Observation:
    """The observation with what keeps the server from the size that it should have."""
    history, bounded_by = observation.history, None
    if observation.ceiling_milli is not None and not recommendation.feasible:
        bounded_by = history.ceiling
    elif recommendation.reason == "floor":
        bounded_by = history.floor
    wants = spec.acts and (bounded_by is not None or recommendation.cores_milli != current_milli)
    return replace(
        observation, history=resize.unless_unwanted(history, observation.at, wants=wants, bounded_by=bounded_by)
    )


def _is_refused(look: Look) -> bool:
    return look.outcome is not None and look.outcome.kind in ("deferred", "infeasible", "rejected", "error")


def _is_searching(look: Look, now: float) -> bool:
    """Whether a size came in force above which another may be possible, because no refusal gave a figure."""
    if look.outcome is None or look.outcome.kind != "actuated":
        return False
    ceiling = look.outcome.history.ceiling
    return ceiling is not None and ceiling.bound.figure_milli is None and now < ceiling.until


def _is_overdue(look: Look) -> bool:
    return look.outcome is not None and look.outcome.overdue


def _gap_s(look: Look) -> float:
    """The shortest time from the start of a look to the next one."""
    if look.trouble:
        return RETRY_S
    if look.observation is None or look.outcome is None:
        return BLOCKED_GAP_S
    if look.observation.snapshot.urgent and look.outcome.kind != "actuated" and not look.outcome.overdue:
        return BLOCKED_GAP_S
    return SHORTEST_GAP_S
