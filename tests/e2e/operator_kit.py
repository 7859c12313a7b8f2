"""The operator in the real cluster, and what its tests ask of it."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import sponge_cluster
from sponge_cluster import BUSYBOX_IMAGE, Cluster
from sponge_operator.node.capacity import view_of

__all__ = [
    "Kubectl",
    "Service",
    "beside",
    "block_node",
    "by_hand",
    "eventually",
    "fresh_namespace",
    "identity",
    "kill_container",
    "memory_limit_mib",
    "millicores",
    "operator_address",
    "operator_pods",
    "operator_restarts",
    "processes_of",
    "quota_file",
    "resizes",
    "scraped",
    "server_state",
    "shown",
    "standing_still",
    "stopped",
]

Kubectl = Callable[..., str]
"""Runs kubectl with these arguments and returns what it printed; see the fixture `kubectl`."""

CGROUPS = Path("/sys/fs/cgroup")


PATIENCE = 3.0
"""Deadlines are given for a quiet machine; a busy one gets so many times as long before a test gives up."""


def eventually(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The first truthy value of `condition`; fails after `timeout_s` times `PATIENCE`."""
    until = time.monotonic() + timeout_s * PATIENCE
    while not (value := condition()):
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)
    return value


@dataclass(frozen=True)
class Service:
    """One SpongeService in the cluster."""

    kubectl: Kubectl
    namespace: str
    name: str

    def apply(self, **spec: Any) -> None:
        manifest = {
            "apiVersion": "serving.sponge.dev/v1alpha1",
            "kind": "SpongeService",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        }
        self.kubectl("apply", "-f", "-", document=manifest)

    def patch(self, **spec: Any) -> None:
        body = json.dumps({"spec": spec})
        self.kubectl("patch", "sps", self.name, "-n", self.namespace, "--type=merge", "-p", body)

    def get(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.kubectl("get", "sps", self.name, "-n", self.namespace, "-o", "json"))
        return answer

    def condition(self, kind: str) -> dict[str, Any]:
        conditions = self.get().get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def is_(self, kind: str, status: str, reason: str) -> bool:
        condition = self.condition(kind)
        return (condition.get("status"), condition.get("reason")) == (status, reason)

    def pods(self, *, leaving: bool = False) -> list[dict[str, Any]]:
        """The pods; `leaving`: those that are on their way out, too."""
        pods = json.loads(
            self.kubectl(
                "get", "pods", "-n", self.namespace, "-l", f"serving.sponge.dev/service={self.name}", "-o", "json"
            )
        )["items"]
        return [pod for pod in pods if leaving or "deletionTimestamp" not in pod["metadata"]]

    def pod(self) -> dict[str, Any]:
        """The one pod that is not on its way out."""
        (pod,) = self.pods()
        return pod

    def wait_ready(self, timeout_s: float = 120) -> None:
        self.kubectl(
            *("wait", "--for=condition=Ready", f"sps/{self.name}", "-n", self.namespace, f"--timeout={timeout_s:g}s")
        )

    def events(self) -> list[tuple[str, str]]:
        """Type and reason of the events about the service."""
        items = json.loads(self.kubectl("get", "events", "-n", self.namespace, "-o", "json"))["items"]
        return [(e["type"], e["reason"]) for e in items if e["involvedObject"]["kind"] == "SpongeService"]


def by_hand(service: Service, milli: int, *, dry_run: bool = False) -> None:
    """Resizes the pod as somebody else would; fails where the API server refuses it."""
    cpu = {"cpu": f"{milli}m"}
    patch = {"spec": {"containers": [{"name": "server", "resources": {"requests": cpu, "limits": cpu}}]}}
    pod = service.pod()["metadata"]["name"]
    only_asked = ("--dry-run=server",) if dry_run else ()
    service.kubectl(
        *("patch", "pod", pod, "-n", service.namespace, "--subresource=resize", "-p", json.dumps(patch)), *only_asked
    )


def server_state(service: Service, pod: dict[str, Any]) -> dict[str, Any]:
    """What the server of a pod says of itself."""
    secret = json.loads(
        service.kubectl("get", "secret", f"{service.name}-sponge-control", "-n", service.namespace, "-o", "json")
    )
    token = base64.b64decode(secret["data"]["token"]).decode()
    request = urllib.request.Request(
        f"http://{pod['status']['podIP']}:9090/control/v1/state", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        state: dict[str, Any] = json.loads(answer.read())
    return state


def shown(kubectl: Kubectl) -> str:
    """What an engineer would look at in the cluster first; what cannot be read is said."""
    wanted = {
        "services": ("get", "sps", "-A", "-o", "jsonpath={range .items[*]}{.metadata.name}: {.status}{'\\n'}{end}"),
        "objects": ("get", "pods,deployments,resourcequotas,limitranges", "-A", "-o", "wide"),
        "events": ("get", "events", "-A", "--sort-by=.metadata.creationTimestamp"),
        "operator": ("logs", "-n", "sponge-system", "-l", "app.kubernetes.io/name=sponge-operator", "--tail=80"),
    }
    texts = []
    for title, command in wanted.items():
        try:
            lines = kubectl(*command).splitlines()[-80:]
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            lines = [str(error)]
        texts.append("\n".join([f"--- {title}", *lines]))
    return "\n".join(texts)


def kill_container(pod: dict[str, Any]) -> None:
    """Kills the first process of the pod's container, as the kernel does when memory runs out."""
    processes = processes_of(pod)
    os.kill(next(pid for pid in processes if _parent(pid) not in processes), signal.SIGKILL)


def processes_of(pod: dict[str, Any], container: str = "server") -> set[int]:
    """The pids of a container's processes."""
    return {int(line) for line in _cgroup_file(pod, "cgroup.procs", container=container).read_text().split()}


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def quota_file(pod: dict[str, Any]) -> Path:
    """Where the kernel keeps the CPU limit of the pod's container, wherever the node's cgroups are."""
    return _cgroup_file(pod, "cpu.cfs_quota_us", "cpu.max")


def memory_limit_mib(pod: dict[str, Any]) -> int:
    """The memory limit that the kernel keeps the pod's container to."""
    return int(_cgroup_file(pod, "memory.limit_in_bytes", "memory.max").read_text()) >> 20


def _cgroup_file(pod: dict[str, Any], *names: str, container: str = "server") -> Path:
    uid = pod["metadata"]["uid"]
    own = _status(pod, container)["containerID"].rpartition("/")[2]
    return next(path for name in names for path in CGROUPS.glob(f"**/pod{uid}/{own}/{name}"))


def _status(pod: dict[str, Any], container: str = "server") -> dict[str, Any]:
    """The status of a container, by default of the one that serves; a pod may have others beside it."""
    statuses: list[dict[str, Any]] = pod["status"]["containerStatuses"]
    return next((status for status in statuses if status["name"] == container), statuses[0])


def millicores(quota: Path) -> int:
    """The CPU limit that is in force."""
    return int(quota.read_text().split()[0]) // 100


def identity(pod: dict[str, Any]) -> tuple[str, str, int]:
    """Changes when a container is restarted or a pod replaced."""
    status = _status(pod)
    return pod["metadata"]["uid"], status["containerID"], status["restartCount"]


@contextmanager
def fresh_namespace(kubectl: Kubectl, name: str) -> Iterator[str]:
    """A namespace that is ready for pods, and not one of an earlier session."""
    kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=90s")
    kubectl("create", "namespace", name)
    kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=30s")
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@contextmanager
def beside(work: Callable[..., Any], *args: Any) -> Iterator[Future[Any]]:
    """Runs `work` in a thread beside the block; waits for its end, and raises what it raised."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work, *args)
        yield running
        running.result()


@contextmanager
def standing_still(cluster: Cluster, daemon: str) -> Iterator[None]:
    """Stops a process of the native cluster, such as "kubelet", and lets it go on at the end of the block."""
    pids = [process.pid for process in sponge_cluster.status(cluster.name).processes if process.name == daemon]
    if not pids:
        pytest.skip(f"this cluster has no process {daemon} of its own")
    with stopped(pids):
        yield


@contextmanager
def stopped(pids: Collection[int]) -> Iterator[None]:
    """Stops these processes, and lets them go on at the end of the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def operator_pods(kubectl: Kubectl) -> list[dict[str, Any]]:
    """The operators' pods that are not on their way out."""
    pods = json.loads(
        kubectl("get", "pods", "-n", "sponge-system", "-l", "app.kubernetes.io/name=sponge-operator", "-o", "json")
    )["items"]
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def operator_restarts(kubectl: Kubectl) -> int:
    return sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in operator_pods(kubectl))


def operator_address(kubectl: Kubectl) -> str:
    """Where the operator's pod serves its metrics and its health."""
    return str(operator_pods(kubectl)[0]["status"]["podIP"])


def scraped(kubectl: Kubectl) -> str:
    """The operator's metrics, as Prometheus would read them."""
    with urllib.request.urlopen(f"http://{operator_address(kubectl)}:9091/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def resizes(kubectl: Kubectl, service: Service, outcome: str = "[a-z]+", reason: str = "[A-Za-z]+") -> float:
    """How many resizes of a service ended so, by the operator's metric."""
    labels = f'namespace="{service.namespace}",outcome="{outcome}",reason="{reason}",service="{service.name}"'
    found = re.findall(rf"^sponge_operator_resize_total{{{labels}}} (\S+)$", scraped(kubectl), re.MULTILINE)
    return sum(map(float, found))


def block_node(kubectl: Kubectl, node_name: str, namespace: str, leave_milli: int) -> None:
    """A pod "blocker" that leaves the node so much CPU; none where there is not more."""
    node = json.loads(kubectl("get", "node", node_name, "-o", "json"))
    pods = json.loads(kubectl("get", "pods", "-A", "--field-selector", f"spec.nodeName={node_name}", "-o", "json"))
    view = view_of(node, pods["items"])
    milli = view.allocatable_milli - sum(view.held_milli.values()) - leave_milli
    if milli <= 0:
        return
    size = {"cpu": f"{milli}m", "memory": "16Mi"}
    blocker = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "blocker", "namespace": namespace},
        "spec": {
            "nodeName": node_name,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": BUSYBOX_IMAGE,
                    "imagePullPolicy": "Never",
                    "command": ["/bin/sleep", "600"],
                    "resources": {"requests": size, "limits": size},
                }
            ],
        },
    }
    kubectl("apply", "-f", "-", document=blocker)
    kubectl("wait", "--for=condition=Ready", "pod/blocker", "-n", namespace, "--timeout=30s")
