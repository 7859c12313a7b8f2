"""Resizes a starting server for the measurement of its latency profile: it asks for one CPU limit after the other."""

from __future__ import annotations

from collections.abc import Callable

from sponge_operator.autoscale import quota_state, resize
from sponge_operator.autoscale.recommender import SizingSpec
from sponge_operator.autoscale.resizer import act
from sponge_operator.autoscale.target import ResizableTarget
from sponge_operator.clients.server import ControlClient, ServerError

__all__ = ["ProfileWalk"]


class ProfileWalk:
    """One server, before it is ready. A limit that the node does not grant is not asked for again."""

    def __init__(
        self, target: ResizableTarget, control: ControlClient, clock: Callable[[], float], timeout_s: float
    ) -> None:
        self._target = target
        self._control = control
        self._clock = clock
        self._timeout_s = timeout_s
        self._asked = 0

    async def help(self, spec: SizingSpec) -> None:
        """Grants the limit that the server asks for, if the service allows it."""
        if not spec.measures:
            return
        observed = self._target.observe(None)
        if not isinstance(observed, quota_state.Idle):
            return
        try:
            report = await self._control.profile(self._target.control_url(), self._target.token, self._target.tls)
        except ServerError:
            return
        wanted = report.wants_milli
        if wanted is None or not max(observed.milli, self._asked) < wanted <= spec.sizes.max_milli:
            return
        self._asked = wanted
        await act(self._target, resize.Patch(wanted), resize.History(), self._clock, self._timeout_s)
