"""Knows which source the server of a pod serves, and has it load another one beside that, as a new version.

The server loads by itself, and its report says how far it has come. So an operator that starts again, or loses the
connection, goes on from the report.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from sponge_core.control_api import LoadFailure, SourceReport
from sponge_operator.autoscale.target import ResizableTarget
from sponge_operator.clients.pods import PodCache
from sponge_operator.clients.server import ControlClient, ServerError, StaleVersionError, UnknownCallError
from sponge_operator.resources.containers import container_status
from sponge_operator.resources.manifests import CONTAINER
from sponge_system.logs import event

__all__ = ["SourceKeeper"]

log = logging.getLogger("sponge.operator")

LOOK_S = 0.5
"""Between two looks at a server whose source changes."""

ROOM_S = 10.0
"""How long a load waits for more memory. Without it, the server says whether what it has is enough."""

FIRST_RETRY_S, LAST_RETRY_S = 30.0, 300.0
"""Before a source that could not be loaded is tried again; doubles with each time, up to the kubelet's longest wait."""


class SourceKeeper:
    """One pod; `run` until cancelled.

    Args:
        model: gives the model's name.
        is_ready: the server accepts requests.
        has_room: the memory limit has room for two versions, or does not change for them.
        on_change: called when `report` or `fixed` has changed.

    Attributes:
        report: what the server said last; None until it has said something. A container that ended has said it.
        fixed: why it cannot load another source while it runs; empty if it can, as far as is known.
    """

    def __init__(
        self,
        control: ControlClient,
        pods: PodCache,
        target: ResizableTarget,
        uid: str,
        clock: Callable[[], float],
        *,
        model: Callable[[], str],
        is_ready: Callable[[], bool],
        has_room: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._control = control
        self._pods = pods
        self._target = target
        self._uid = uid
        self._clock = clock
        self._model = model
        self._is_ready = is_ready
        self._has_room = has_room
        self._on_change = on_change
        self._woken = asyncio.Event()
        self._wanted: str | None = None
        self._container: tuple[object, ...] = ()
        self._is_told = False
        self._asked: str | None = None
        self._ended: LoadFailure | None = None
        self._failures = 0
        self._retry_at = float("-inf")
        self._room_asked_at: float | None = None
        self.report: SourceReport | None = None
        self.fixed = ""

    def want(self, source: str | None) -> None:
        """The source that this pod should serve; None: the one that it serves."""
        if source == self._wanted:
            return
        self._wanted, self._failures, self._retry_at, self._room_asked_at = source, 0, float("-inf"), None
        self._woken.set()

    def pod_changed(self) -> None:
        """The pod has changed in the cache."""
        if _container_of(self._pods.get(self._uid)) != self._container:
            self._woken.set()

    @property
    def holds_two(self) -> bool:
        """Whether the server has, or is about to load, two versions of the model."""
        if self.report is None:
            return False
        return self.report.loading is not None or self.report.ending or self._is_due()

    async def run(self) -> None:
        """Never returns."""
        while True:
            self._woken.clear()
            before = self.report, self.fixed
            try:
                await self._look()
            except UnknownCallError:
                self.fixed = "its server cannot load another source while it runs"
            except ServerError:
                pass  # the controller says that it does not answer
            if (self.report, self.fixed) != before:
                self._on_change()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), LOOK_S if self._is_unsettled() else None)

    def _is_unsettled(self) -> bool:
        if self.fixed:
            return False
        if self.report is None or not self._is_told or self.report.loading is not None or self.report.ending:
            return True
        return self._wanted is not None and self.report.serving != self._wanted

    def _is_due(self) -> bool:
        """Whether the wanted source should be loaded now."""
        found = self.report
        if found is None or self._wanted is None or found.serving == self._wanted or found.loading is not None:
            return False
        is_refused = found.failed is not None and found.failed.source == self._wanted and found.failed.no_room
        return not is_refused and self._clock() >= self._retry_at

    async def _look(self) -> None:
        self._see_container()
        if self.fixed or not self._is_ready():
            return
        await self._ask(None)
        if not self._is_due() or self._waits_for_room():
            return
        assert self.report is not None
        event(log, "source.loading", pod=self._target.name, source=self._wanted, beside=self.report.serving)
        with contextlib.suppress(StaleVersionError):  # it loads another one; the next look tries again
            await self._ask(self._wanted)

    async def _ask(self, wanted: str | None) -> None:
        target = self._target
        found = await self._control.source(target.control_url(), target.token, self._model(), wanted, target.tls)
        if found.failed is None and found.loading is None:
            found = found.model_copy(update={"failed": self._ended})
        self.report, self._is_told = found, True
        if found.loading is not None:
            self._asked = found.loading
        elif self._asked is not None:
            self._conclude(self._asked, found)

    def _conclude(self, asked: str, found: SourceReport) -> None:
        """The load that was asked for has ended."""
        self._asked = self._room_asked_at = None
        if found.serving == asked:
            event(log, "source.live", pod=self._target.name, source=asked)
            return
        message = "" if found.failed is None else found.failed.message
        event(log, "source.not_loaded", logging.WARNING, pod=self._target.name, source=asked, message=message)
        self._retry_at = self._clock() + min(LAST_RETRY_S, FIRST_RETRY_S * 2**self._failures)
        self._failures += 1

    def _waits_for_room(self) -> bool:
        now = self._clock()
        self._room_asked_at = now if self._room_asked_at is None else self._room_asked_at
        return not self._has_room() and now - self._room_asked_at < ROOM_S

    def _see_container(self) -> None:
        """A new container has said nothing yet; one that ended while it loaded a source had no room for it."""
        container = _container_of(self._pods.get(self._uid))
        if container == self._container:
            return
        self._container, self._is_told, self.fixed = container, False, ""
        if self._asked is not None:
            text = "the container ended while it was loaded, as it does when memory runs out"
            self._ended = LoadFailure(source=self._asked, no_room=True, message=text)
            self.report, self._asked = SourceReport(serving=None, failed=self._ended), None


def _container_of(pod: Mapping[str, Any] | None) -> tuple[object, ...]:
    """Changes when the server's container starts again."""
    own = None if pod is None else container_status(pod, CONTAINER)
    return () if own is None else (own.get("containerID"), own.get("restartCount"))
