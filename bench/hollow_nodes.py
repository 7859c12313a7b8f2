"""Nodes without containers, for benchmarks of the operator alone: many pods on a small machine.

The API server, the scheduler and the controllers are real; the nodes are objects whose pods this module reports as
running, as `kubectl` shows them. It answers each resize at once, and each pod's control port with an idle server's
state, so that all of the operator's work is real and none of the servers'. The pods' addresses lead to this machine.

    async with HollowNodes(api, 3) as nodes:   # as root; the pods select a node by `SELECTOR`
        ...
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from kubernetes.aio import client

from sponge_core.control_api import (
    ApplyAck,
    ApplyRequest,
    FrontierPoint,
    ProfileReport,
    ReleaseAck,
    ReleaseRequest,
    StateSnapshot,
)
from sponge_core.errors import SpongeError
from sponge_core.quantities import parse_cpu_milli
from sponge_operator.resources.manifests import CONTAINER, CONTROL_PORT, SERVICE_LABEL

__all__ = ["PODS_EACH", "SELECTOR", "HollowNodes", "HollowPod"]

PODS_EACH = 100
"""As many as a node of a cloud has, about."""

SELECTOR = {"sponge.test/hollow": "true"}
NETWORK = "198.18.0.0/16"
CAPACITY = {"cpu": "1000", "memory": "100Ti", "pods": str(PODS_EACH), "ephemeral-storage": "100Ti"}
LEASE_S = 40
WRITERS = 16
SIZES_MILLI = tuple(range(250, 1501, 125))
PARKED_S = 3600.0
MERGE = "application/strategic-merge-patch+json"


@dataclass(slots=True)
class HollowPod:
    """A pod that is reported as running.

    Attributes:
        milli: the size that it is said to have.
        wants_milli: below this size its server reports missed deadlines; 0 at rest.
        resized: set at each resize, for whoever waits for one.
        resizes: how many there were, the first size included.
    """

    name: str
    namespace: str
    address: str
    service: str
    milli: int = 0
    wants_milli: int = 0
    version: int = 1
    applied: int = 0
    resizes: int = 0
    resized: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """The server has news."""
        self.version += 1
        self.news.set()
        self.news = asyncio.Event()

    def state(self) -> StateSnapshot:
        """What its server would report."""
        busy = self.wants_milli > self.milli
        self.version += 1
        return StateSnapshot(
            version=self.version,
            applied_version=self.applied,
            now_s=time.monotonic(),
            ready=True,
            draining=False,
            models=["digits"],
            cores_milli=self.milli,
            cpu_quota_milli=self.milli,
            thread_budget=1,
            threads_running=0,
            batch_cap=8,
            lanes=[],
            queue_length=0,
            queue_slack_s=[],
            uploads_in_flight=0,
            arrival_rate_rps=0,
            remaining_slo_s=[],
            outcomes={},
            latency_p99_s=None,
            throttled_s=0,
            prediction_ratio=1,
            idle_for_s=0 if busy else PARKED_S,
            urgent=busy,
            frontier=[
                FrontierPoint(cores_milli=milli, batch_cap=8, misses=float(milli < self.wants_milli))
                for milli in SIZES_MILLI
            ],
        )


class HollowNodes:
    """Nodes with their pods; an async context manager. Raises SpongeError if the addresses cannot be had."""

    def __init__(self, api: client.ApiClient, count: int) -> None:
        self._names = [f"hollow-{number}" for number in range(count)]
        self.pods: dict[str, HollowPod] = {}
        self._core = client.CoreV1Api(api)
        self._leases = client.CoordinationV1Api(api)
        self._writers = asyncio.Semaphore(WRITERS)
        self._by_address: dict[str, HollowPod] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._runner = web.AppRunner(self._control_port(), access_log=None)

    async def __aenter__(self) -> HollowNodes:
        _route("add")
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "0.0.0.0", CONTROL_PORT).start()
        except OSError as error:
            raise SpongeError(f"port {CONTROL_PORT} is taken on this machine: {error}") from None
        for name in self._names:
            await self._register(name)
        self._tasks = [asyncio.create_task(self._renew(name)) for name in self._names]
        self._tasks.append(asyncio.create_task(self._watch()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()
        for name in self._names:
            with contextlib.suppress(client.ApiException):
                await self._core.delete_node(name)
        _route("del")

    def check(self) -> None:
        """Raises what has ended its watch."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _register(self, name: str) -> None:
        labels = {**SELECTOR, "kubernetes.io/hostname": name}
        with contextlib.suppress(client.ApiException):
            await self._core.delete_node(name)
        await self._core.create_node({"metadata": {"name": name, "labels": labels}})
        ready = {"type": "Ready", "status": "True", "reason": "Hollow", "lastHeartbeatTime": _now()}
        status = {"capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [ready]}
        await self._core.patch_node_status(name, {"status": status}, _content_type=MERGE)

    async def _renew(self, name: str) -> None:
        """Keeps a node's lease, without which its pods would be evicted."""
        where, spec = "kube-node-lease", {"holderIdentity": name, "leaseDurationSeconds": LEASE_S}
        with contextlib.suppress(client.ApiException):
            await self._leases.create_namespaced_lease(where, {"metadata": {"name": name}, "spec": spec})
        while True:
            with contextlib.suppress(client.ApiException):
                body = {"spec": {**spec, "renewTime": _now()}}
                await self._leases.patch_namespaced_lease(name, where, body, _content_type=MERGE)
            await asyncio.sleep(LEASE_S / 4)

    async def _watch(self) -> None:
        """Follows the pods of the nodes until cancelled."""
        async with asyncio.TaskGroup() as writes:
            version = ""
            while True:
                async for event in self._events(version):
                    pod = event["object"]
                    if event["type"] == "ERROR":
                        version = ""
                        break
                    version = pod["metadata"]["resourceVersion"]
                    if event["type"] == "DELETED":
                        self._forget(pod)
                    elif event["type"] != "BOOKMARK":
                        writes.create_task(self._follow(pod))

    async def _events(self, version: str) -> AsyncIterator[dict[str, Any]]:
        query = {"label_selector": SERVICE_LABEL, "watch": True, "resource_version": version}
        answer = await self._core.list_pod_for_all_namespaces_without_preload_content(**query, _request_timeout=3600)
        async for line in answer.content:
            yield json.loads(line)

    def _forget(self, pod: Mapping[str, Any]) -> None:
        known = self.pods.pop(pod["metadata"]["uid"], None)
        if known is not None:
            del self._by_address[known.address]

    async def _follow(self, pod: dict[str, Any]) -> None:
        """Reports what the kubelet would: the pod runs, has its size, or is gone."""
        metadata = pod["metadata"]
        if pod["spec"].get("nodeName") not in self._names:
            return
        if metadata.get("deletionTimestamp"):
            with contextlib.suppress(client.ApiException):
                async with self._writers:
                    await self._core.delete_namespaced_pod(
                        metadata["name"], metadata["namespace"], grace_period_seconds=0
                    )
            return
        known = self.pods.get(metadata["uid"])
        if known is None:
            number = len(self.pods)
            while (address := f"198.18.{number // 250}.{number % 250 + 1}") in self._by_address:
                number += 1
            service = metadata["labels"][SERVICE_LABEL]
            known = self.pods[metadata["uid"]] = HollowPod(metadata["name"], metadata["namespace"], address, service)
            self._by_address[address] = known
        (container,) = (one for one in pod["spec"]["containers"] if one["name"] == CONTAINER)
        milli = parse_cpu_milli(container["resources"]["limits"]["cpu"])
        if milli != known.milli:
            known.milli = milli
            known.resizes += 1
            known.resized.set()
            known.tell()
            async with self._writers:
                with contextlib.suppress(client.ApiException):
                    await self._core.patch_namespaced_pod_status(
                        known.name, known.namespace, _status(pod, container, known.address), _content_type=MERGE
                    )

    # --- the control ports -------------------------------------------------------------------------------------------

    def _control_port(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/control/v1/state", self._state)
        app.router.add_get("/control/v1/profile", self._profile)
        app.router.add_post("/control/v1/apply", self._apply)
        app.router.add_post("/control/v1/release", self._release)
        return app

    def _asked(self, request: web.Request) -> HollowPod:
        if request.transport is None:
            raise web.HTTPServiceUnavailable
        address = request.transport.get_extra_info("sockname")[0]
        if address not in self._by_address:
            raise web.HTTPServiceUnavailable
        return self._by_address[address]

    async def _state(self, request: web.Request) -> web.Response:
        pod, query = self._asked(request), request.query
        since, quota = int(query.get("since", 0)), int(query.get("quota_milli", 0))
        waits = pod.milli != quota if quota else since > 0 and pod.version <= since
        if waits:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pod.news.wait(), float(query.get("wait_s", 0)))
        return web.Response(text=pod.state().model_dump_json(), content_type="application/json")

    async def _profile(self, request: web.Request) -> web.Response:
        self._asked(request)
        report = ProfileReport(origin="given", cpu_type="hollow")
        return web.Response(text=report.model_dump_json(), content_type="application/json")

    async def _apply(self, request: web.Request) -> web.Response:
        pod, message = self._asked(request), ApplyRequest.model_validate_json(await request.read())
        pod.applied = message.version
        ack = ApplyAck(
            version=message.version,
            cores_milli=message.cores_milli,
            thread_budget=1,
            batch_cap=message.batch_cap,
            now_s=time.monotonic(),
            waited_s=0,
        )
        return web.Response(text=ack.model_dump_json(), content_type="application/json")

    async def _release(self, request: web.Request) -> web.Response:
        pod, message = self._asked(request), ReleaseRequest.model_validate_json(await request.read())
        pod.applied = message.version
        ack = ReleaseAck(version=message.version, cores_milli=pod.milli, now_s=time.monotonic())
        return web.Response(text=ack.model_dump_json(), content_type="application/json")


def _status(pod: Mapping[str, Any], container: Mapping[str, Any], address: str) -> dict[str, Any]:
    """The status of a running and ready pod."""
    now = _now()
    true = [
        {"type": kind, "status": "True", "lastTransitionTime": now}
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    running = {
        "name": CONTAINER,
        "ready": True,
        "started": True,
        "restartCount": 0,
        "image": container["image"],
        "imageID": "hollow",
        "containerID": f"hollow://{pod['metadata']['uid']}",
        "state": {"running": {"startedAt": now}},
        "resources": container["resources"],
    }
    return {
        "status": {
            "phase": "Running",
            "observedGeneration": pod["metadata"]["generation"],
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": now,
            "conditions": true,
            "containerStatuses": [running],
        }
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _route(verb: str) -> None:
    """Adds or removes the pods' addresses as this machine's own. Raises SpongeError."""
    command = ["ip", "route", verb, "local", NETWORK, "dev", "lo"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0 and "File exists" not in done.stderr:
        raise SpongeError(f"{' '.join(command)} failed: {done.stderr.strip()}; run as root")
