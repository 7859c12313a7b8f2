"""Brings one pod to a size, step by step: each waits for the acknowledgement of the one before.

Growing: quota, then thread budget and batch cap. Shrinking: thread budget and batch cap, then the quota once the
running batches fit it. Which step is due is decided by `resize`; which size is wanted, by `decision`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sponge_core.control_api import ApplyRequest, SizeRange, StateSnapshot
from sponge_core.quantities import cores_text
from sponge_operator.autoscale import resize
from sponge_operator.autoscale.pod_state import Blocked
from sponge_operator.autoscale.recommender import Wish
from sponge_operator.clients.kube import ApiError
from sponge_operator.clients.server import ServerError
from sponge_operator.context import Context, Events
from sponge_operator.resources.manifests import CONTAINER, CONTROL_PORT

__all__ = ["Actuator", "Result"]

log = logging.getLogger("sponge.operator")

QUOTA_POLL_S = 0.01
"""Between two looks at the server's quota while a resize is under way; it takes 22 ms (p50) to be in force."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one call did: a resize's outcome, "applied" for a batch cap alone, or None for nothing."""

    outcome: str | None = None
    took_s: float | None = None


class Actuator:
    """Sizes one pod. Only one call of `bring` at a time."""

    def __init__(self, context: Context, events: Events, uid: str, token: str) -> None:
        self._context = context
        self._events = events
        self._uid = uid
        self._token = token
        # An operator that has just started may find a resize on its way: give it the usual patience.
        self._memory = resize.Memory(patched_at=context.clock())
        self._acknowledged: tuple[int, int, int, SizeRange] | None = None  # version, cores, batch cap, sizes
        self.changed = asyncio.Event()  # set by the owner whenever the pod's status is news
        self.blocked: Blocked | None = None

    def ceiling_milli(self) -> int | None:
        """What the node is believed to have for this pod; None for no known limit."""
        ceiling = resize.allowed_milli(self._memory, self._context.clock())
        if ceiling is None and self._memory.ceiling_milli is not None:
            self._memory = replace(self._memory, ceiling_milli=None)
            self.blocked = None
        return ceiling

    def observe(self, quota_milli: int | None) -> resize.Observed:
        """What the pod's status says now."""
        pod = self._context.pods.get(self._uid)
        if pod is None:
            return resize.NotResizable("Terminating", "the pod is gone")
        return resize.observe(pod, CONTAINER, quota_milli)

    async def bring(self, observed: resize.Observed, snapshot: StateSnapshot, wish: Wish, sizes: SizeRange) -> Result:
        """One step towards `wish`.

        Raises:
            ServerError: the server did not take the size; nothing was shrunk.
        """
        context = self._context
        action = resize.step(observed, wish.cores_milli, self._memory, context.clock())
        match action:
            case resize.Revert():
                return await self._revert(action)
            case resize.Patch():
                grows = action.milli > (resize.actual_milli(observed) or 0)
                if not context.budget.take(context.clock(), grows=grows):
                    return Result()
                if grows:
                    result = await self._patch(action)
                    if result.outcome == "actuated":
                        await self._apply(snapshot, wish, sizes)
                    return result
                await self._apply(snapshot, wish, sizes)
                return await self._patch(action)
            case resize.Nothing("Settled"):
                if self._apply_is_due(snapshot, wish, sizes):
                    await self._apply(snapshot, wish, sizes)
                    return Result("applied")
        return Result()

    def note(self, observed: resize.Observed) -> None:
        """Says so where a pod can never be resized as it is."""
        if isinstance(observed, resize.NotResizable) and observed.reason in ("RestartPolicy", "NoLimit"):
            self._block(observed.reason, observed.message)

    async def restore(self, milli: int) -> None:
        """Asks for the size that the pod started with, and waits for nothing."""
        observed = self.observe(None)
        if isinstance(observed, resize.NotResizable) or observed == resize.Idle(milli):
            return
        with contextlib.suppress(ApiError):
            await self._send(milli)

    def _apply_is_due(self, snapshot: StateSnapshot, wish: Wish, sizes: SizeRange) -> bool:
        # A server that restarted knows nothing of what was applied before.
        return self._acknowledged != (snapshot.applied_version, wish.cores_milli, wish.batch_cap, sizes)

    async def _apply(self, snapshot: StateSnapshot, wish: Wish, sizes: SizeRange) -> None:
        context = self._context
        self._acknowledged = None
        request = ApplyRequest(
            version=snapshot.applied_version + 1, cores_milli=wish.cores_milli, batch_cap=wish.batch_cap, sizes=sizes
        )
        await context.control.apply(self.base_url(), self._token, request, context.settings.apply_timeout_s)
        self._acknowledged = (request.version, wish.cores_milli, wish.batch_cap, sizes)

    async def _patch(self, action: resize.Patch) -> Result:
        context = self._context
        began = context.clock()
        self._memory = resize.remember(self._memory, action, began)
        before = self.observe(None)
        try:
            await self._send(action.milli)
        except ApiError as error:
            return self._refused(error, action.milli, before)
        seen = await self._actuated(action.milli, began + context.settings.actuate_timeout_s)
        took = context.clock() - began
        pod = self._pod_name()
        if isinstance(seen, resize.Idle):
            context.metrics.resizes.labels("actuated").inc()
            context.metrics.resize.observe(took)
            if self.ceiling_milli() is None:
                self.blocked = None
            log.info("resize.actuated pod=%s cores=%s took=%.3f", pod, cores_text(action.milli), took)
            return Result("actuated", took)
        if isinstance(seen, resize.InFlight):
            context.metrics.resizes.labels("timeout").inc()
            message = (
                f"{cores_text(action.milli)} cores are not in force after {took:.1f} s; asked again until they are"
            )
            self._block("Timeout", message)
            return Result("timeout", took)
        action_now = resize.step(seen, action.milli, self._memory, context.clock())
        return await self._revert(action_now) if isinstance(action_now, resize.Revert) else Result()

    async def _revert(self, action: resize.Revert) -> Result:
        context = self._context
        self._memory = resize.remember(self._memory, action, context.clock())
        context.metrics.resizes.labels(action.outcome).inc()
        self._block(
            {"deferred": "Deferred", "infeasible": "Infeasible", "error": "ResizeError"}[action.outcome], action.message
        )
        try:
            await self._send(action.milli)
        except ApiError as error:
            log.warning("resize.revert_refused pod=%s status=%d message=%s", self._pod_name(), error.status, error)
            return Result(action.outcome)
        await self._actuated(action.milli, context.clock() + context.settings.actuate_timeout_s)
        return Result(action.outcome)

    def _refused(self, error: ApiError, asked: int, observed: resize.Observed) -> Result:
        context = self._context
        if error.status == 404 or (error.status == 422 and "metadata.uid" in str(error)):
            # The pod has gone, or another one of its name is there: the watch will say so.
            return Result()
        context.metrics.resizes.labels("rejected").inc()
        consequence = resize.refused(error.status, error.body, asked, resize.actual_milli(observed) or 0)
        self._memory = resize.remember(self._memory, consequence, context.clock())
        causes = (error.body.get("details") or {}).get("causes") or ()
        reason = next((str(cause["reason"]) for cause in causes if cause.get("reason")), None)
        self._block(reason or str(error.body.get("reason") or "Rejected"), str(error))
        return Result("rejected")

    async def _send(self, milli: int) -> None:
        pod = self._context.pods.get(self._uid)
        if pod is None:
            raise ApiError(404, {"message": "the pod is gone"})
        self._context.pods.update(await self._context.kube.resize(pod, CONTAINER, milli))

    async def _actuated(self, milli: int, deadline: float) -> resize.Observed:
        """Waits until the size is in force, refused, or the deadline has come; whichever source says so first."""
        quota = asyncio.create_task(self._quota_reaches(milli))
        try:
            while True:
                reached = quota.done() and quota.exception() is None
                observed = self.observe(milli if reached else None)
                left = deadline - self._context.clock()
                if not isinstance(observed, resize.InFlight) or left <= 0:
                    return observed
                self.changed.clear()
                news = asyncio.create_task(self.changed.wait())
                waiting = {news} if quota.done() else {news, quota}
                await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
        finally:
            quota.cancel()

    async def _quota_reaches(self, milli: int) -> None:
        context = self._context
        while True:
            await asyncio.sleep(QUOTA_POLL_S)
            with contextlib.suppress(ServerError):
                snapshot = await context.control.state(self.base_url(), self._token)
                if snapshot.cpu_quota_milli == milli:
                    return

    def base_url(self) -> str:
        """The server's control port. Raises ServerError while the pod has no address."""
        pod = self._context.pods.get(self._uid)
        address = ((pod or {}).get("status") or {}).get("podIP")
        if not address:
            raise ServerError("the pod has no address yet")
        return f"http://[{address}]:{CONTROL_PORT}" if ":" in address else f"http://{address}:{CONTROL_PORT}"

    def _block(self, reason: str, message: str) -> None:
        pod = self._pod_name()
        if self.blocked == Blocked(reason, message):
            return
        self.blocked = Blocked(reason, message)
        log.warning("resize.blocked pod=%s reason=%s message=%s", pod, reason, message)
        self._events.emit("Warning", f"Resize{reason}", f"{pod}: {message}", about=pod)

    def _pod_name(self) -> str:
        pod: Mapping[str, Any] | None = self._context.pods.get(self._uid)
        return str(pod["metadata"]["name"]) if pod is not None else self._uid
