"""Keeps the latency profile that a pod has measured, for the pods to come.

The server cannot write to the cluster; the operator asks it once it is ready, and writes the ConfigMap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from sponge_core.control_api import ProfileReport
from sponge_operator.autoscale.pod_state import PodState
from sponge_operator.autoscale.target import ResizableTarget
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.pods import PodCache
from sponge_operator.clients.server import ControlClient, ServerError, UnknownCallError
from sponge_operator.resources.containers import container_status
from sponge_operator.resources.manifest_parts import header
from sponge_operator.resources.manifests import CONTAINER, pod_labels
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.profile_store import digest_of, prefix_of, store_name, with_profile, without_profile
from sponge_system.logs import event

__all__ = ["ProfileKeeper"]

log = logging.getLogger("sponge.operator")

CHECK_S = 2.0
RETRY_S = 30.0

DRIFT_CHECK_S = 60.0
"""A server notices after half a minute that its profile is of another machine or model."""


class ProfileKeeper:
    """One pod; `run` until cancelled.

    Args:
        state: gives what is known of the pod.
    """

    def __init__(
        self,
        kube: Kube,
        control: ControlClient,
        pods: PodCache,
        target: ResizableTarget,
        uid: str,
        service: Callable[[], SpongeService],
        state: Callable[[], PodState],
    ) -> None:
        self._kube = kube
        self._control = control
        self._pods = pods
        self._target = target
        self._uid = uid
        self._service = service
        self._state = state

    async def run(self) -> None:
        """Keeps the profile once the server is ready, and again when it serves another source; drops a wrong one."""
        while (report := await self._report()) is not None:
            is_kept = report.profile is not None
            if is_kept:
                await self._until_written(report, keep=True)
            while not self._is_former(report):
                if is_kept and self._drifted():
                    await self._until_written(report, keep=False)
                    is_kept = False
                await asyncio.sleep(DRIFT_CHECK_S)

    async def _report(self) -> ProfileReport | None:
        """What the server says about its profile, once it is ready; None if that will never be of use."""
        while True:
            await asyncio.sleep(CHECK_S)
            if not self._service().spec.profile.is_measured:
                return None
            if not self._state().ready:
                continue
            try:
                return await self._control.profile(self._target.control_url(), self._target.token, self._target.tls)
            except UnknownCallError:  # a server of a version before profiles were kept
                return None
            except ServerError:
                continue

    def _drifted(self) -> bool:
        snapshot = self._state().snapshot
        return snapshot is not None and snapshot.profile_drifted

    def _is_former(self, report: ProfileReport) -> bool:
        """Whether the server serves another source by now than the one that was reported on."""
        found = self._state().source
        return found is not None and report.source is not None and found.serving not in (None, report.source)

    async def _until_written(self, report: ProfileReport, *, keep: bool) -> None:
        while True:
            try:
                await self._write(report, keep=keep)
            except ApiError as error:
                event(log, "profile.not_kept", logging.WARNING, pod=self._target.name, message=error)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _write(self, report: ProfileReport, *, keep: bool) -> None:
        pod, service = self._pods.get(self._uid), self._service()
        source = report.source or service.spec.model.source
        prefix = None if pod is None else prefix_of(pod, CONTAINER, source)
        if pod is None or prefix is None or report.profile is None:
            return
        digest, name = _digest(pod), store_name(service)
        present = await self._kube.get("ConfigMap", service.namespace, name)
        if keep and report.origin == "measured":
            changed = with_profile(present, prefix, report.cpu_type, digest, report.profile)
        elif keep and digest_of(present) == digest:
            return  # it started with what is kept, in the image that this was measured in
        else:
            changed = without_profile(present, prefix, report.cpu_type, digest)
        if changed is None:
            return
        manifest = header(service, "v1", "ConfigMap", name, pod_labels(service))
        manifest["metadata"]["annotations"] = changed["annotations"]
        if present is not None:
            # Pods of other types of CPU write here too: whoever comes late reads again.
            manifest["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
        await self._kube.apply({**manifest, "data": changed["data"]})
        did = "profile.kept" if report.origin == "measured" and keep else "profile.dropped"
        event(log, did, pod=self._target.name, config_map=name, cpu=report.cpu_type)


def _digest(pod: Mapping[str, Any]) -> str:
    """The digest of the image that the pod's container runs; empty if it is not known."""
    return str((container_status(pod, CONTAINER) or {}).get("imageID") or "")
