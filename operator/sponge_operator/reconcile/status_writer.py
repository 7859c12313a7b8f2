"""Writes the status of a service when it has changed, and posts events about what has become of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sponge_operator.clients.kube import ApiError
from sponge_operator.context import Context, Events, EventType
from sponge_operator.resources.status import broken_status, build_status, substance
from sponge_operator.resources.status_input import StatusInput
from sponge_system.logs import event

__all__ = ["StatusWriter"]

log = logging.getLogger("sponge.operator")

AGAIN_S = 5.0
"""After a status that the API server did not take."""

STEPS = (
    *("Loading", "NoState", "NoPods", "RollingOut", "ContainerCreating", "PodInitializing", "ProbeFailing"),
    *("SourceLoading", "SourceUnknown"),
)
"""Reasons of Ready that every start, or every change of the source, passes through."""


class StatusWriter:
    """The status of one service.

    Attributes:
        due_at: when to call `write` again, because a change was held back; on the context's clock.
    """

    def __init__(self, context: Context, events: Events, namespace: str, name: str) -> None:
        self._context = context
        self._events = events
        self._namespace = namespace
        self._name = name
        self._written: Mapping[str, Any] = {}
        self._written_at = float("-inf")
        self.due_at = float("inf")

    async def write(self, found: StatusInput, present: Mapping[str, Any]) -> None:
        """Writes the status: a changed condition at once, changed figures after a while, nothing if nothing changed.

        Args:
            present: the status of the object as the watch saw it last; matters at the first call only.
        """
        before = self._written or present
        await self._write(before, build_status(found, before))

    async def write_broken(self, reason: str, message: str, present: Mapping[str, Any], generation: int) -> None:
        """Says that the status itself cannot be told."""
        before = self._written or present
        await self._write(before, broken_status(before, reason, message, self._context.wall(), generation))

    async def _write(self, before: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        context, now = self._context, self._context.clock()
        self.due_at = float("inf")
        if _told(status) == _told(before):
            return
        allowed_at = self._written_at + context.settings.status_interval_s
        if substance(status) == substance(before) and now < allowed_at:
            self.due_at = allowed_at
            return
        try:
            await context.kube.write_status(self._namespace, self._name, status)
        except ApiError as error:
            if error.status != 404:
                name = f"{self._namespace}/{self._name}"
                event(log, "status.failed", logging.WARNING, service=name, status=error.status, message=error)
                self.due_at = now + AGAIN_S
            self._written_at = now
            return
        self._written, self._written_at = status, now
        self._announce(before, status)

    def _announce(self, before: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Posts an event when the service is applied, becomes ready, is kept from it, or misses its target."""
        was = {c["type"]: (c["status"], c.get("reason")) for c in before.get("conditions") or ()}
        for condition in status["conditions"]:
            kind, now = condition["type"], (condition["status"], condition["reason"])
            if was.get(kind) == now:
                continue
            if kind == "Synced" and now[0] == "True":
                self._events.emit("Normal", "Applied", condition["message"])
            if kind == "Ready" and now[0] == "True":
                self._events.emit("Normal", "Ready", condition["message"])
            elif kind == "Ready":
                severity: EventType = "Normal" if now[1] in STEPS else "Warning"
                self._events.emit(severity, "NotReady", f"{now[1]}: {condition['message']}", about=str(now[1]))
            if kind == "Scaling" and now[1] == "AtMax":
                self._events.emit("Warning", "ReplicasAtMax", condition["message"])
            if kind == "NodeFull" and now[0] == "True":
                self._events.emit("Warning", "NodeFull", condition["message"])
            if kind == "SLOAttained" and now[0] == "False":
                self._events.emit("Warning", "SLOMissed", condition["message"])


def _told(status: Mapping[str, Any]) -> dict[str, Any]:
    # The API server drops null, so a status that was read has none.
    return {key: value for key, value in status.items() if value is not None}
