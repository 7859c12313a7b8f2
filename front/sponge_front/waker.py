"""Asks for a pod of a service that has none, and lets requests wait for it.

The operator removes all pods of a service after `idle.removeAfter` without a request. It brings one back once
`status.wake` of the SpongeService has the present time. The status is all that the front may write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import aiohttp

from sponge_core.resource_names import GROUP, PLURAL, VERSION
from sponge_front.endpoint_slices import ApiAccess
from sponge_front.pods import Pod
from sponge_system.logs import event

__all__ = ["Waker"]

log = logging.getLogger(__name__)

ASK_S = 5.0
"""Between two times that a pod is asked for, however many requests wait."""

SETTLE_S = 0.3
"""From the first pod until the proxy has read its address."""

TIMEOUT_S = 5.0

MOST_WAITING = 256
"""Requests that wait at once."""


class Waker:
    """The pods of one service: whether there are any, and asking for one.

    Args:
        namespace, service: of the SpongeService, which has the name of its Service.
    """

    def __init__(self, session: aiohttp.ClientSession, access: ApiAccess, namespace: str, service: str) -> None:
        self._session = session
        self._access = access
        self._url = f"{access.url}/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}/{service}/status"
        self._there = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._waiting = 0

    def keep(self, pods: Sequence[Pod]) -> None:
        """Sets which pods there are."""
        if pods:
            self._there.set()
        else:
            self._there.clear()

    async def pod_within(self, left_s: float) -> None:
        """Asks for a pod, unless that was done a moment ago; returns when there is one, or after `left_s` seconds.

        It returns at once when too many wait.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="wake")
        if self._waiting >= MOST_WAITING:
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(left_s):
                await self._there.wait()
                await asyncio.sleep(SETTLE_S)
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    async def _ask(self) -> None:
        """Ends when it may be asked again."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            async with self._session.patch(
                self._url,
                json={"status": {"wake": now}},
                headers={**self._access.headers(), "content-type": "application/merge-patch+json"},
                ssl=self._access.tls or True,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                raise_for_status=True,
            ):
                event(log, "pod.asked_for")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            event(log, "pod.not_asked_for", logging.WARNING, reason=str(error) or type(error).__name__)
        await asyncio.sleep(ASK_S)
