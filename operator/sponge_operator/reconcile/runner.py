"""Runs the reconciler of one SpongeService from the moment it is seen until it is gone.

No finalizer holds the object back, so it can be deleted while no operator runs. What is left to do then, restoring the
size of pods that stay behind, is found from the pods themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from sponge_core.errors import SpongeError
from sponge_core.resource_names import GROUP
from sponge_operator.clients.kube import ApiError
from sponge_operator.context import Context, Events, EventType
from sponge_operator.reconcile.service import ServiceReconciler
from sponge_operator.reconcile.status_writer import StatusWriter
from sponge_system.logs import event

__all__ = ["ServiceRunner"]

log = logging.getLogger("sponge.operator")

RETRY_S = 5.0
"""Before a reconciler that failed is started again."""

EXIT_S = 5.0
"""For a service's loops to end."""

LEAVE_S = 15.0
"""For its pods' last sizes, before that; the kubelet ends an operator that takes 30 s to stop."""

FORMER_FINALIZER = f"{GROUP}/restore-size"
"""Set by versions up to 0.1.0; nobody would ever remove it."""


class ServiceRunner:
    """One service; starts at once.

    Args:
        post: an event about an object: type, reason, message.
        body: the SpongeService as it is now; `seen` takes later versions.
    """

    def __init__(
        self,
        context: Context,
        post: Callable[[Mapping[str, Any], EventType, str, str], None],
        body: Mapping[str, Any],
    ) -> None:
        self._context = context
        self._body = dict(body)
        self._events = Events(lambda kind, reason, message: post(self._body, kind, reason, message), context.clock)
        self._reconciler: ServiceReconciler | None = None
        self._changed = asyncio.Event()
        self._leaving = asyncio.Event()
        self._is_orphaned = False
        self._cleaning: asyncio.Task[None] | None = None
        self.uid: str = body["metadata"]["uid"]
        self.key = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        self._note_deletion()
        self._task = asyncio.create_task(self._run(), name=f"service {self.key}")

    def seen(self, body: Mapping[str, Any]) -> None:
        """Call with each later version of the service."""
        self._body.clear()
        self._body.update(body)
        self._note_deletion()
        if FORMER_FINALIZER in (body["metadata"].get("finalizers") or ()):  # from a backup, or an older operator
            self._cleaning = asyncio.create_task(self._leave_former_finalizer(), name=f"finalizer of {self.key}")
        self._changed.set()
        if self._reconciler is not None:
            self._reconciler.service_seen()

    def wake(self) -> None:
        """Call when one of its pods has changed."""
        if self._reconciler is not None:
            self._reconciler.wake()

    def child_seen(self, kind: str, child: Mapping[str, Any] | None) -> None:
        """Call when a child has changed; None: it is gone."""
        if self._reconciler is not None:
            self._reconciler.child_seen(kind, child)

    def front_seen(self, kind: str, child: Mapping[str, Any] | None) -> None:
        """Call when an object of its front has changed; None: it is gone."""
        if self._reconciler is not None:
            self._reconciler.front_seen(kind, child)

    def tick(self, now: float) -> None:
        """Call every second or so."""
        if self._reconciler is not None:
            self._reconciler.tick(now)

    async def leave(self) -> None:
        """Ends its loops for good: no operator follows, so the pods get a size to live on with."""
        self._leaving.set()
        await self.stop()

    async def stop(self) -> None:
        """Ends its loops; lets a setting of last sizes that has begun come to its end."""
        if self._leaving.is_set():
            await asyncio.wait({self._task}, timeout=LEAVE_S)
        tasks = {self._task} if self._cleaning is None else {self._task, self._cleaning}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=EXIT_S)

    def _note_deletion(self) -> None:
        metadata = self._body["metadata"]
        if metadata.get("deletionTimestamp") and "orphan" in (metadata.get("finalizers") or ()):
            self._is_orphaned = True
            self._leaving.set()

    async def _run(self) -> None:
        event(log, "service.started", service=self.key)
        try:
            while not await self._reconciled():
                await self._pause()
        finally:
            event(log, "service.stopped", service=self.key)

    async def _reconciled(self) -> bool:
        """Reconciles until the pods are left alone, and sets their last size; False after a failure."""
        self._changed.clear()
        try:
            await self._leave_former_finalizer()
            self._reconciler = reconciler = ServiceReconciler(self._context, self._events, self._body)
            if await reconciler.run(self._left):
                await reconciler.restore()
            else:
                await reconciler.fall_back()
        except SpongeError as error:
            await self._refuse(str(error))
        except Exception:
            log.exception("service.failed service=%s", self.key)
        else:
            return True
        finally:
            self._reconciler = None
        return False

    async def _refuse(self, message: str) -> None:
        """Says in the service itself that its manifest cannot be read."""
        metadata, status = self._body["metadata"], self._body.get("status") or {}
        self._events.emit("Warning", "InvalidSpec", message)
        writer = StatusWriter(self._context, self._events, metadata["namespace"], metadata["name"])
        await writer.write_broken("InvalidSpec", message, status, metadata.get("generation", 0))

    async def _left(self) -> bool:
        await self._leaving.wait()
        return self._is_orphaned

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), RETRY_S)
        except TimeoutError:
            return

    async def _leave_former_finalizer(self) -> None:
        metadata = self._body["metadata"]
        others = [name for name in metadata.get("finalizers") or () if name != FORMER_FINALIZER]
        if len(others) == len(metadata.get("finalizers") or ()):
            return
        try:
            patch = {"metadata": {"finalizers": others, "resourceVersion": metadata["resourceVersion"]}}
            await self._context.kube.merge("SpongeService", metadata["namespace"], metadata["name"], patch)
        except ApiError as error:
            event(log, "finalizer.kept", logging.WARNING, service=self.key, message=error)
