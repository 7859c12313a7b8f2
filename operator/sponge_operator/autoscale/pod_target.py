"""A pod as a target of the control loop: its quota is observed in its status and set through `pods/resize`."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from sponge_core.addresses import authority
from sponge_operator.autoscale import quota_state
from sponge_operator.autoscale.ceiling import from_api, may_have
from sponge_operator.autoscale.memory import memory_to_take_back
from sponge_operator.autoscale.pod_state import starting
from sponge_operator.autoscale.target import QuotaRefusedError, Starting, TargetGoneError
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.pods import PodCache
from sponge_operator.clients.server import ControlClient, ServerError
from sponge_operator.resources.manifests import CONTAINER, CONTROL_PORT, control_scheme

__all__ = ["PodTarget"]

QUOTA_WAIT_S = 0.5
"""How long the server may hold its answer back while its quota is not the wanted one; it takes 22 ms (p50)."""

QUOTA_RETRY_S = 0.05
"""Before it is asked again."""

CONFLICTS = 3
"""So many 409 in a row are answered by the same patch at once; it carries no version."""


class PodTarget:
    """The server's container of one pod.

    Args:
        uid: of the pod; one with the same name and another uid is never resized.
        tokens: gives those that its control port may have, the newest first.
        trust: gives the certificates to accept from it, if it speaks https.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        kube: Kube,
        control: ControlClient,
        pods: PodCache,
        clock: Callable[[], float],
        *,
        uid: str,
        name: str,
        tokens: Callable[[], tuple[str, ...]],
        trust: Callable[[], ssl.SSLContext | None],
    ) -> None:
        self._kube = kube
        self._control = control
        self._pods = pods
        self._clock = clock
        self._uid = uid
        self._changed = asyncio.Event()
        self.name = name
        self._tokens = tokens
        self._trust = trust

    def pod_changed(self) -> None:
        """Call after each change of the pod in the cache."""
        self._changed.set()

    def control_url(self) -> str:
        """The server's control port. Raises ServerError while the pod has no address, or its certificate is unknown."""
        pod = self._pods.get(self._uid) or {}
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            raise ServerError("the pod has no address yet")
        scheme = control_scheme(pod)
        if scheme == "https" and self._trust() is None:
            raise ServerError("the server's certificate is unknown: the Secret of spec.tls has none")
        return f"{scheme}://{authority(address, CONTROL_PORT)}"

    def starting(self) -> Starting | None:
        """The sizes of the pod while its container is not ready."""
        pod = self._pods.get(self._uid)
        return None if pod is None else starting(pod)

    @property
    def token(self) -> tuple[str, ...]:
        """Those in the Secret of the service, now and before."""
        return self._tokens()

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The certificates in the Secret of the service."""
        return self._trust()

    def observe(self, quota_milli: int | None) -> quota_state.Observed:
        """The state of the pod's resize, from the newest version in the cache."""
        pod = self._pods.get(self._uid)
        if pod is None:
            return quota_state.NotResizable("Terminating", "the pod is gone")
        return quota_state.observe(pod, CONTAINER, quota_milli)

    async def set_quota(self, milli: int) -> None:
        """Patches the pod. Raises QuotaRefusedError or TargetGoneError."""
        pod, before = self._pods.get(self._uid), self.observe(None)
        if pod is None:
            raise TargetGoneError("the pod is gone")
        try:
            patched = await self._resize(pod, milli)
        except ApiError as error:
            if _is_gone(error):
                raise TargetGoneError(str(error)) from None
            refusal = from_api(
                error.status,
                error.body,
                milli,
                quota_state.actual_milli(before) or 0,
                retry_after_s=error.retry_after_s,
                node=pod["spec"].get("nodeName") or "",
            )
            raise QuotaRefusedError(may_have(refusal)) from None
        self._pods.update(patched)

    async def _resize(self, pod: Mapping[str, Any], milli: int) -> dict[str, Any]:
        """The patched pod; writes of others at the same moment are no reason to wait."""
        memory = memory_to_take_back(pod, CONTAINER)
        for _ in range(CONFLICTS):
            try:
                return await self._kube.resize(pod, CONTAINER, milli, memory)
            except ApiError as error:
                if error.status != 409:
                    raise
        return await self._kube.resize(pod, CONTAINER, milli, memory)

    async def settled(self, milli: int, deadline: float) -> quota_state.Observed:
        """Waits for the pod's status or the server's own reading of its quota, whichever is first."""
        quota = asyncio.create_task(self._quota_reaches(milli))
        try:
            while True:
                reached = quota.done() and quota.exception() is None
                observed = self.observe(milli if reached else None)
                left_s = deadline - self._clock()
                if not isinstance(observed, quota_state.InFlight) or left_s <= 0:
                    return observed
                self._changed.clear()
                news = asyncio.create_task(self._changed.wait())
                waiting = {news} if quota.done() else {news, quota}
                await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
        finally:
            quota.cancel()

    async def _quota_reaches(self, milli: int) -> None:
        while True:
            with contextlib.suppress(ServerError):
                url = self.control_url()
                snapshot = await self._control.state_at_quota(url, self.token, milli, QUOTA_WAIT_S, self.tls)
                if snapshot.cpu_quota_milli == milli:
                    return
            await asyncio.sleep(QUOTA_RETRY_S)


def _is_gone(error: ApiError) -> bool:
    """Whether the pod is gone, or another one has taken its name; a missing subresource names no pod."""
    if error.status == 404:
        return bool((error.body.get("details") or {}).get("name"))
    return error.status == 422 and "metadata.uid" in str(error)
