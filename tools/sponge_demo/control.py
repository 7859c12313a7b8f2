"""Fixing a server's size through its control port, for the fixed sizes that Sponge is compared with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sponge_core.control_api import ApplyRequest, SizeRange
from sponge_demo.backend import DemoError, Endpoint
from sponge_demo.scenario import Scenario
from sponge_operator.clients.server import ControlClient, ServerError

__all__ = ["fix_size"]

APPLY_TIMEOUT_S = 10.0
IN_FORCE_WITHIN_S = 30.0
LOOK_S = 0.1


async def fix_size(
    client: ControlClient,
    endpoint: Endpoint,
    scenario: Scenario,
    milli: int,
    set_quota: Callable[[int], Awaitable[None]],
) -> None:
    """Gives a server that nobody else resizes a size, and waits until the quota is in force.

    Growing, the quota goes first; shrinking, the server does. The server plans for this one size until it is told
    otherwise.

    Args:
        set_quota: changes the CPU quota of the server.

    Raises:
        DemoError: the server does not take the size, or the quota does not come into force.
    """
    try:
        state = await client.state(endpoint.control_url, endpoint.token)
        request = ApplyRequest(
            version=state.applied_version + 1,
            cores_milli=milli,
            batch_cap=scenario.max_batch,
            sizes=SizeRange(min_milli=milli, max_milli=milli, step_milli=scenario.step_milli),
        )
        grows = state.cpu_quota_milli is not None and milli > state.cpu_quota_milli
        if grows:
            await set_quota(milli)
        await client.apply(endpoint.control_url, endpoint.token, request, APPLY_TIMEOUT_S)
        if not grows:
            await set_quota(milli)
        async with asyncio.timeout(IN_FORCE_WITHIN_S):
            while state.cpu_quota_milli not in (None, milli):
                await asyncio.sleep(LOOK_S)
                state = await client.state(endpoint.control_url, endpoint.token)
    except ServerError as error:
        raise DemoError(f"the server does not take its size of {milli}m: {error}") from None
    except TimeoutError:
        raise DemoError(f"a size of {milli}m is not in force after {IN_FORCE_WITHIN_S:g} s") from None
