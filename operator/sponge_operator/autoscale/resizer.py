"""Carries out resizes: the steps in their order, each after the acknowledgement of the one before.

`sponge_core.planning.resize_order` says which step is due, `resize` how a quota is requested, repeated or taken back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace

from sponge_core.control_api import ApplyRequest
from sponge_core.planning.resize_order import Step, next_step
from sponge_core.quantities import cores_text
from sponge_operator.autoscale import quota_state, resize
from sponge_operator.autoscale.ceiling import POLICY, Bound, Wait
from sponge_operator.autoscale.look import ResizeOutcome
from sponge_operator.autoscale.resize import Blocked, History
from sponge_operator.autoscale.resize_budget import ResizeBudget
from sponge_operator.autoscale.target import CpuQuota, QuotaRefusedError, ResizableTarget, TargetGoneError
from sponge_operator.clients.server import ControlClient, ServerError
from sponge_system.logs import event

__all__ = ["Resizer", "act", "bring_to", "restore"]

log = logging.getLogger("sponge.operator")

PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Between the attempts to set a last size: an API server that is busy or restarts is back by then."""


class Resizer:
    """Resizes one server; call `carry_out` again until the size is reached, one call at a time.

    Args:
        actuate_timeout_s: how long one call waits for a quota to be in force.
        apply_timeout_s: how long the server may take until its running batches fit a smaller budget.
        budget: limits the rate of resizes; None for no limit.
    """

    def __init__(
        self,
        target: ResizableTarget,
        control: ControlClient,
        clock: Callable[[], float],
        *,
        actuate_timeout_s: float,
        apply_timeout_s: float,
        budget: ResizeBudget | None = None,
    ) -> None:
        self._target = target
        self._control = control
        self._clock = clock
        self._actuate_timeout_s = actuate_timeout_s
        self._apply_timeout_s = apply_timeout_s
        self._budget = budget

    async def carry_out(self, observed: quota_state.Observed, history: History, goal: ApplyRequest) -> ResizeOutcome:
        """Does what is due now to reach the size of `goal`.

        Args:
            observed: the state of the quota.
            goal: the message for the server, with the version after the one in force.
        """
        action = resize.step(observed, goal.cores_milli, history, self._clock())
        outcome = ResizeOutcome(None, history, observed)
        quota = quota_state.actual_milli(observed) or 0
        match action:
            case resize.Revert():
                return await self._act(action, history)
            case resize.Patch(milli):
                if self._budget is not None and not self._budget.take(self._clock(), grows=milli > quota):
                    return replace(outcome, held="rate")
            case resize.Nothing(reason):
                if reason != "Settled":
                    return outcome
        acknowledged = history.acknowledged == goal.model_copy(update={"version": goal.version - 1})
        while (due := next_step(quota, goal.cores_milli, acknowledged)) is not None:
            if due is Step.BUDGET:
                outcome = await self._apply(goal, outcome)
                if outcome.trouble:
                    return outcome
                acknowledged = True
            else:
                outcome = await self._act(action, outcome.history)
                if outcome.kind != "actuated":
                    return outcome
                quota = goal.cores_milli
        return outcome

    async def start_with(self, milli: int, history: History) -> ResizeOutcome:
        """Does what is due now to give a server that is not ready the size for its start; the server is not asked."""
        now, observed = self._clock(), self._target.observe(None)
        action = resize.step(observed, milli, history, now)
        stopped = isinstance(observed, quota_state.NotResizable) and observed.reason == "NotRunning"
        if stopped and now >= history.quiet_until:
            action = resize.Patch(milli)  # the kubelet starts a container again with what the spec says then
        match action:
            case resize.Nothing():
                return ResizeOutcome(None, history, observed)
            case resize.Patch() if self._budget is not None and not self._budget.take(now, grows=True):
                return ResizeOutcome(None, history, observed, held="rate")
        return await self._act(action, history)

    async def _apply(self, goal: ApplyRequest, outcome: ResizeOutcome) -> ResizeOutcome:
        unknown = replace(outcome, history=replace(outcome.history, acknowledged=None))
        try:
            url, token, tls = self._target.control_url(), self._target.token, self._target.tls
            await self._control.apply(url, token, goal, self._apply_timeout_s, tls)
        except ServerError as error:
            return replace(unknown, trouble=str(error))
        return replace(outcome, kind=outcome.kind or "applied", history=replace(outcome.history, acknowledged=goal))

    async def _act(self, action: resize.Action, history: History) -> ResizeOutcome:
        return await act(self._target, action, history, self._clock, self._actuate_timeout_s)


async def act(
    quota: CpuQuota, action: resize.Action, history: History, clock: Callable[[], float], timeout_s: float
) -> ResizeOutcome:
    """Carries out one action on a quota: requests a size and waits for it, or takes a refused size back."""
    match action:
        case resize.Patch():
            return await _patch(quota, action, history, clock, timeout_s)
        case resize.Revert():
            return await _revert(quota, action, history, clock, timeout_s)
        case resize.Nothing():
            return ResizeOutcome(None, history, quota.observe(None))


async def bring_to(target: ResizableTarget, control: ControlClient, goal: ApplyRequest, timeout_s: float) -> None:
    """Resizes a server once, outside of a control loop.

    Args:
        goal: the message for the server, with a version above the one in force.
        timeout_s: for each step.

    Raises:
        ServerError: the server does not acknowledge its budget, or the quota is not in force.
    """
    clock = asyncio.get_running_loop().time
    resizer = Resizer(target, control, clock, actuate_timeout_s=timeout_s, apply_timeout_s=timeout_s)
    outcome = await resizer.carry_out(target.observe(None), History(), goal)
    if outcome.trouble:
        raise ServerError(outcome.trouble)
    if outcome.kind not in ("actuated", "applied"):
        blocked = outcome.history.blocked
        raise ServerError(blocked.message if blocked else f"{target.name} cannot be resized")


async def restore(quota: CpuQuota, milli: int) -> None:
    """Requests a size that nobody will correct later; does not wait until it is in force.

    A refused request is repeated for some seconds, with the nearest possible size where the refusal names one.
    """
    for pause_s in (0.0, *PAUSES_S):
        await asyncio.sleep(pause_s)
        observed = quota.observe(None)
        if isinstance(observed, quota_state.NotResizable) or observed == quota_state.Idle(milli):
            return
        try:
            await quota.set_quota(milli)
        except TargetGoneError:
            return
        except QuotaRefusedError as refusal:
            event(log, "resize.left_refused", logging.WARNING, pod=quota.name, cores=cores_text(milli), message=refusal)
            if isinstance(refusal.why, Bound):
                milli = refusal.why.limit(quota_state.actual_milli(observed) or 0, 1)
        else:
            return


async def _patch(
    quota: CpuQuota, action: resize.Patch, history: History, clock: Callable[[], float], timeout_s: float
) -> ResizeOutcome:
    began = clock()
    before_milli = quota_state.actual_milli(quota.observe(None)) or 0
    history = resize.record(history, action, began)
    try:
        if action.reminds:
            await quota.set_quota(action.milli - 1)
        await quota.set_quota(action.milli)
    except TargetGoneError:
        return ResizeOutcome(None, history, quota.observe(None))  # the watch will report it
    except QuotaRefusedError as refusal:
        history = resize.refuse(history, refusal.why, clock(), random.random() / 4)
        return ResizeOutcome("rejected", history, quota.observe(None))
    history = replace(history, failures=0)
    waits_s = timeout_s if action.resends else min(timeout_s, history.overdue_s)
    seen = await quota.settled(action.milli, began + waits_s)
    took_s = clock() - began
    if isinstance(seen, quota_state.Idle):
        event(log, "resize.actuated", pod=quota.name, cores=cores_text(action.milli), took=round(took_s, 3))
        history = resize.actuated(history, before_milli, action.milli, clock(), took_s)
        return ResizeOutcome("actuated", history, seen, took_s)
    if isinstance(seen, quota_state.InFlight) and waits_s < timeout_s:
        event(log, "resize.overdue", logging.DEBUG, pod=quota.name, cores=cores_text(action.milli))
        return ResizeOutcome(None, history, seen, overdue=True)
    if isinstance(seen, quota_state.InFlight):
        message = f"{cores_text(action.milli)} cores are not in force after {took_s:.1f} s; the request is repeated"
        return ResizeOutcome("timeout", replace(history, blocked=Blocked("Timeout", message)), seen, took_s)
    due = resize.step(seen, action.milli, history, clock())
    if isinstance(due, resize.Revert):
        return await _revert(quota, due, history, clock, timeout_s)
    return ResizeOutcome(None, history, seen)


async def _revert(
    quota: CpuQuota, action: resize.Revert, history: History, clock: Callable[[], float], timeout_s: float
) -> ResizeOutcome:
    history = resize.record(history, action, clock())
    try:
        await quota.set_quota(action.milli)
    except TargetGoneError:
        return ResizeOutcome(action.outcome, history, quota.observe(None))
    except QuotaRefusedError as refusal:
        event(log, "resize.revert_refused", logging.WARNING, pod=quota.name, message=refusal)
        # Whatever refuses the size in force, the revert is not sent at every look.
        why = refusal.why if isinstance(refusal.why, Wait) else Wait(refusal.why.reason, str(refusal), POLICY)
        history = resize.refuse(history, why, clock(), random.random() / 4)
        return ResizeOutcome(action.outcome, history, quota.observe(None))
    seen = await quota.settled(action.milli, clock() + timeout_s)
    return ResizeOutcome(action.outcome, history, seen)
