"""Takes part in the election of a leader, and acts only as long as this process is the one."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.leadership.election import (
    LEASE_S,
    LOOK_S,
    Election,
    Lease,
    Resign,
    Take,
    Wait,
    left_s,
    next_step,
    observe,
    renewed,
)
from sponge_system.logs import event

__all__ = ["Leader"]

log = logging.getLogger("sponge.operator")

CONFLICT = 409
"""Somebody else was faster."""

ANSWER_S = 2.0
"""For one call about the Lease; there has to be time for a second one before the leadership ends."""


class Leader:
    """One candidate.

    Args:
        namespace, name: of the Lease.
        me: identity; the same for all processes of one pod, of which only one runs at a time, and for nobody else.
        on_change: called with whether this process leads, whenever that changes.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        me: str,
        clock: Callable[[], float],
        on_change: Callable[[bool], None],
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._clock = clock
        self._on_change = on_change
        self._election = Election(me)

    def may_act(self) -> bool:
        """Whether nobody else can lead now; asked before each action, in case this process was stopped for a while."""
        return self._election.may_act(self._clock())

    async def run(self, act: Callable[[], Awaitable[None]]) -> None:
        """Runs `act` whenever this process leads, and cancels it when that ends; returns never, raises what it raises.

        A cancellation gives the Lease back, so that the next one leads at once.
        """
        try:
            while True:
                await self._become_leader()
                self._announce(leads=True)
                acting = asyncio.ensure_future(act())
                keeping = asyncio.ensure_future(self._keep())
                try:
                    await asyncio.wait({acting, keeping}, return_when=asyncio.FIRST_COMPLETED)
                    if keeping.done():
                        self._election = replace(self._election, held_since=None)
                finally:
                    # First the actions end, then the renewals.
                    for task in (acting, keeping):
                        task.cancel()
                        await asyncio.wait({task})
                    self._announce(leads=False)
                if not acting.cancelled():
                    acting.result()
                self._election = replace(self._election, held_since=None)
        finally:
            await self._give_back()

    def _announce(self, *, leads: bool) -> None:
        event(log, "leader.started" if leads else "leader.stopped", identity=self._election.me)
        self._on_change(leads)

    async def _become_leader(self) -> None:
        while True:
            try:
                self._election = observe(self._election, await self._read(), self._clock())
                step = next_step(self._election, self._clock())
                if isinstance(step, Take):
                    await self._write(step.present)
                    return
            except ApiError as error:
                if error.status != CONFLICT:
                    event(log, "leader.undecided", logging.WARNING, status=error.status, message=error)
            await asyncio.sleep(LOOK_S)

    async def _keep(self) -> None:
        """Renews the Lease; returns when it is lost."""
        while not isinstance(step := next_step(self._election, self._clock()), Resign):
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
                continue
            try:
                await self._write(step.present)
            except ApiError as error:
                event(log, "lease.not-renewed", logging.WARNING, status=error.status, message=error)
                with contextlib.suppress(ApiError):
                    self._election = observe(self._election, await self._read(), self._clock())
                await asyncio.sleep(min(LOOK_S, left_s(self._election, self._clock())))

    async def _read(self) -> Lease | None:
        async with self._in_time():
            return _lease(await self._kube.get("Lease", self._namespace, self._name))

    async def _write(self, present: Lease | None) -> None:
        """Puts the own name and the time into the Lease. Raises ApiError, 409 if somebody else was faster."""
        sent_at, me = self._clock(), self._election.me
        takes_over = present is not None and present.holder != me
        spec = {
            "holderIdentity": me,
            "leaseDurationSeconds": round(LEASE_S),
            "renewTime": _now(),
            "leaseTransitions": (0 if present is None else present.transitions) + takes_over,
        }
        async with self._in_time():
            if present is None:
                answer = await self._kube.create(self._manifest({**spec, "acquireTime": _now()}))
            else:
                if takes_over:
                    spec["acquireTime"] = _now()
                patch = {"metadata": {"resourceVersion": present.version}, "spec": spec}
                answer = await self._kube.merge("Lease", self._namespace, self._name, patch)
        lease = _lease(answer)
        if lease is not None:
            self._election = renewed(self._election, lease, sent_at)

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        wait_s = ANSWER_S
        if self._election.held_since is not None:
            wait_s = min(ANSWER_S, left_s(self._election, self._clock()))
        try:
            async with asyncio.timeout(wait_s):
                yield
        except TimeoutError:
            raise ApiError(0, {"message": f"the API server did not answer within {wait_s:.1f} s"}) from None

    async def _give_back(self) -> None:
        if not self.may_act():
            return
        # Without a version: nobody else can have it yet, and a renewal that was interrupted may have changed it.
        patch = {"spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}}
        try:
            async with self._in_time():
                await self._kube.merge("Lease", self._namespace, self._name, patch)
        except ApiError as error:
            event(log, "lease.not-released", logging.WARNING, status=error.status, message=error)
        else:
            event(log, "lease.released")

    def _manifest(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": spec,
        }


def _lease(manifest: Mapping[str, Any] | None) -> Lease | None:
    if manifest is None:
        return None
    spec = manifest.get("spec") or {}
    return Lease(
        holder=str(spec.get("holderIdentity") or ""),
        version=str(manifest["metadata"]["resourceVersion"]),
        duration_s=float(spec.get("leaseDurationSeconds") or LEASE_S),
        transitions=int(spec.get("leaseTransitions") or 0),
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
