"""One service on the real cluster, for the benchmarks of resizes: kubectl, the kernel's quota, a ready pod."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from bench.resize_latency import kubectl as call_kubectl
from sponge_cluster import Cluster
from sponge_cluster.chart import NAMESPACE as OPERATOR_NAMESPACE
from sponge_cluster.containers import container_cgroup
from sponge_core.addresses import authority
from sponge_core.errors import SpongeError
from sponge_core.resource_names import GROUP, KIND, VERSION
from sponge_operator.resources.manifests import SERVICE_LABEL
from sponge_system.cgroup import read_quota_milli

__all__ = ["Kubectl", "QuotaWatch", "infer", "quota_watch", "service"]

SAMPLE_S = 0.001
IN_FORCE_WITHIN_S = 10.0
TIMEOUT_S = 240.0


class Kubectl:
    """kubectl against one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.config = str(cluster.kubeconfig)
        self._cluster = cluster

    def __call__(self, *arguments: str, document: object = None) -> str:
        """Returns what it prints. Raises SpongeError with its message when it fails."""
        text = None if document is None else json.dumps(document)
        return call_kubectl(self._cluster, *arguments, text=text, timeout_s=TIMEOUT_S)

    def pod(self, namespace: str, name: str) -> dict[str, Any]:
        """The one pod of a service."""
        found = json.loads(self("get", "pods", "-n", namespace, "-l", f"{SERVICE_LABEL}={name}", "-o", "json"))
        (pod,) = (pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"])
        return dict(pod)

    def operator_log(self, since_s: float) -> list[str]:
        """The operator's lines of the last seconds."""
        of_operator = ("-l", "app.kubernetes.io/name=sponge-operator", "--tail=-1")
        return self("logs", "-n", OPERATOR_NAMESPACE, *of_operator, f"--since={since_s:.0f}s").splitlines()


class QuotaWatch:
    """Samples the quota of a container, and remembers each change with its time on `time.monotonic`."""

    def __init__(self, cgroup: Path) -> None:
        self._cgroup = cgroup
        self._changes: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def milli(self) -> int:
        """The quota now; 0 before the first sample."""
        return self._changes[-1][1] if self._changes else 0

    async def becomes(self, wanted: Callable[[int], bool], asked_at: float, within_s: float) -> float | None:
        """Waits for a change to a `wanted` size since `asked_at`; None if there is none `within_s` from now."""
        until = time.monotonic() + within_s
        while time.monotonic() <= until:
            for at, milli in reversed(self._changes):
                if at >= asked_at and wanted(milli):
                    return at
            await asyncio.sleep(SAMPLE_S)
        return None

    async def reaches(self, milli: int, asked_at: float) -> float:
        """Waits, and returns when it became `milli`. Raises SpongeError."""
        at = await self.becomes(lambda size: size == milli, asked_at, IN_FORCE_WITHIN_S)
        if at is None:
            raise SpongeError(f"{milli}m are not in force after {IN_FORCE_WITHIN_S:g} s; see the operator's log")
        return at

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            with suppress(OSError):
                now = read_quota_milli(self._cgroup)
                if now is not None and now != self.milli:
                    self._changes.append((time.monotonic(), now))


@contextmanager
def quota_watch(pod: dict[str, Any]) -> Iterator[QuotaWatch]:
    """Watches the first container of a running pod."""
    watch = QuotaWatch(container_cgroup(pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["containerID"]))
    try:
        yield watch
    finally:
        watch.stop()


@contextmanager
def service(kubectl: Kubectl, name: str, spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The ready pod of a service in a namespace of the same name; both are deleted at the end."""
    manifest = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": name, "namespace": name},
        "spec": {"model": {"name": "digits", "source": "digits://"}} | spec,
    }
    kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=120s")
    kubectl("create", "namespace", name)
    try:
        kubectl("apply", "-f", "-", document=manifest)
        kubectl("wait", "--for=condition=Ready", f"sps/{name}", "-n", name, "--timeout=180s")
        yield kubectl.pod(name, name)
    finally:
        kubectl("delete", "sps", name, "-n", name, "--ignore-not-found", "--timeout=120s")
        kubectl("delete", "namespace", name, "--wait=false")


async def infer(session: aiohttp.ClientSession, address: str, slo_ms: int) -> str:
    """Sends one picture of a digit to a pod's address; returns its status, or the name of the error."""
    inputs = [{"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.5] * 64}]
    url, headers = f"http://{authority(address, 8080)}/v2/models/digits/infer", {"x-sponge-slo-ms": str(slo_ms)}
    try:
        async with session.post(url, json={"inputs": inputs}, headers=headers) as answer:
            await answer.read()
            return str(answer.status)
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__
