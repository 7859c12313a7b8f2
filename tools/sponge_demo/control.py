"""Fixing a server's size, for the fixed sizes that Sponge is compared with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from sponge_core.control_api import ApplyRequest, SizeRange
from sponge_demo.backend import DemoError, Endpoint
from sponge_demo.scenario import Scenario
from sponge_operator.autoscale import quota_state
from sponge_operator.autoscale.resizer import bring_to
from sponge_operator.autoscale.target import ResizableTarget
from sponge_operator.clients.server import ControlClient, ServerError

__all__ = ["ReportedTarget", "fix_size"]

STEP_TIMEOUT_S = 30.0
LOOK_S = 0.1


async def fix_size(client: ControlClient, target: ResizableTarget, scenario: Scenario, milli: int) -> None:
    """Resizes a server that no control loop resizes, and waits until the quota is in force.

    The server plans for this one size until the next message.

    Raises:
        DemoError: the server does not take the size, or the quota does not come into force.
    """
    try:
        state = await client.state(target.control_url(), target.token)
        target.observe(state.cpu_quota_milli or state.cores_milli)
        goal = ApplyRequest(
            version=state.applied_version + 1,
            cores_milli=milli,
            batch_cap=scenario.max_batch,
            sizes=SizeRange(min_milli=milli, max_milli=milli, step_milli=scenario.step_milli),
        )
        await bring_to(target, client, goal, STEP_TIMEOUT_S)
    except ServerError as error:
        raise DemoError(f"the server does not take its size of {milli}m: {error}") from None


class ReportedTarget:
    """A server whose quota is known from the server's own report alone.

    Args:
        milli: the size that it starts with.
        set_quota: changes its CPU quota.
    """

    def __init__(
        self, client: ControlClient, endpoint: Endpoint, milli: int, set_quota: Callable[[int], Awaitable[None]]
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._milli = milli
        self._set_quota = set_quota
        self.name = "server"
        self.token = endpoint.token
        self.tls = None

    def control_url(self) -> str:
        return self._endpoint.control_url

    def starting(self) -> None:
        """It is resized by somebody else when it starts again."""

    def observe(self, quota_milli: int | None) -> quota_state.Observed:
        """The newest report: `quota_milli`, or the last one that was given."""
        if quota_milli is not None:
            self._milli = quota_milli
        return quota_state.Idle(self._milli)

    async def set_quota(self, milli: int) -> None:
        await self._set_quota(milli)

    async def settled(self, milli: int, deadline: float) -> quota_state.Observed:
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(ServerError):
                state = await self._client.state(self.control_url(), self.token)
                if state.cpu_quota_milli in (None, milli):
                    return self.observe(milli)
            await asyncio.sleep(LOOK_S)
        return quota_state.InFlight(milli, self._milli)
