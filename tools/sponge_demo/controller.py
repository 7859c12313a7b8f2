"""The operator's loop without Kubernetes: the same decision on the same state, carried out on a cgroup's quota.

The order of steps is the operator's: growing, the quota goes first; shrinking, the server does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sponge_core.control_api import ApplyRequest, SizeRange, StateSnapshot
from sponge_demo.backend import Endpoint
from sponge_operator.autoscale.recommender import PodDecider, Wish
from sponge_operator.clients.server import ControlClient, ServerError

__all__ = ["Controller"]

POLL_S = 1.0
SHORTEST_GAP_S = 0.02
RETRY_S = 0.5
APPLY_TIMEOUT_S = 2.0
LOOK_BACK_S = 1.0
"""As in the operator's settings and the SpongeService's defaults."""


class Controller:
    """Sizes one server until cancelled.

    Args:
        current_milli: the size in force.
        set_quota: changes it; None where there is no quota, and the server's thread budget is all there is.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        client: ControlClient,
        sizes: SizeRange,
        current_milli: int,
        set_quota: Callable[[int], None] | None,
    ) -> None:
        self._endpoint = endpoint
        self._client = client
        self._sizes = sizes
        self._current = current_milli
        self._set_quota = set_quota or (lambda _: None)
        self._decider = PodDecider(LOOK_BACK_S)
        self._acknowledged: tuple[int, int, int] | None = None
        self.resizes = 0

    async def run(self) -> None:
        """Never returns; a server that does not answer keeps its size."""
        loop = asyncio.get_running_loop()
        since = 0
        while True:
            began = loop.time()
            gap_s = SHORTEST_GAP_S
            try:
                state = await self._client.state(self._endpoint.control_url, self._endpoint.token, since, POLL_S)
                since = state.version
                if state.ready:
                    await self._look(state)
            except ServerError:
                gap_s = RETRY_S
            await asyncio.sleep(max(0.0, began + gap_s - loop.time()))

    async def _look(self, state: StateSnapshot) -> None:
        now = asyncio.get_running_loop().time()
        wish = self._decider.decide(now, self._current, state.batch_cap, state.frontier, self._sizes)
        if wish.cores_milli == self._current:
            if self._acknowledged != (state.applied_version, wish.cores_milli, wish.batch_cap):
                await self._apply(state, wish)
            return
        grows = wish.cores_milli > self._current
        if not grows:
            await self._apply(state, wish)
        self._set_quota(wish.cores_milli)
        self._current = wish.cores_milli
        self.resizes += 1
        if grows:
            await self._apply(state, wish)

    async def _apply(self, state: StateSnapshot, wish: Wish) -> None:
        self._acknowledged = None
        request = ApplyRequest(
            version=state.applied_version + 1,
            cores_milli=wish.cores_milli,
            batch_cap=wish.batch_cap,
            sizes=self._sizes,
        )
        await self._client.apply(self._endpoint.control_url, self._endpoint.token, request, APPLY_TIMEOUT_S)
        self._acknowledged = (request.version, wish.cores_milli, wish.batch_cap)
