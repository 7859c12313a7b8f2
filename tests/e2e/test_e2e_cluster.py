"""The local cluster for real: pods run, resizes reach the cgroup, this Python runs in pods, nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sponge_cluster
from sponge_cluster import BUSYBOX_IMAGE, Cluster, ConsoleProgress, binaries

pytestmark = pytest.mark.e2e

Kubectl = Callable[..., str]
CGROUPS = Path("/sys/fs/cgroup")
OWN_MACHINE = Path(__file__).parents[1] / "shared" / "own_machine.sh"


def _pod(name: str, container: dict[str, Any], **spec: Any) -> dict[str, Any]:
    size = {"cpu": "200m", "memory": "64Mi"}
    base = {"name": "main", "imagePullPolicy": "Never", "resources": {"requests": size, "limits": size}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [base | container], "terminationGracePeriodSeconds": 0} | spec,
    }


def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _quota_file(pod: dict[str, Any]) -> Path:
    """Where the kernel keeps the CPU limit of the pod's one container, wherever the node's cgroups are."""
    uid = pod["metadata"]["uid"]
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    names = ("cpu.cfs_quota_us", "cpu.max")
    return next(path for name in names for path in CGROUPS.glob(f"**/pod{uid}/{container}/{name}"))


def _millicores(quota_file: Path) -> int:
    return int(quota_file.read_text().split()[0]) // 100


def test_a_second_up_finds_the_cluster(cluster: Cluster) -> None:
    begun = time.monotonic()
    assert sponge_cluster.up(cluster.name) == cluster
    assert time.monotonic() - begun < 5.0
    found = sponge_cluster.status(cluster.name)
    assert (found.state, found.ready, found.kubeconfig) == ("running", True, str(cluster.kubeconfig))


def test_a_resize_reaches_the_cgroup_without_a_restart(kubectl: Kubectl, namespace: str) -> None:
    container = {"image": BUSYBOX_IMAGE, "command": ["/bin/sh", "-c", "while :; do :; done"]}
    kubectl("apply", "-n", namespace, "-f", "-", document=_pod("busy", container))
    kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/busy", "--timeout=60s")

    def pod() -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(kubectl("get", "pod", "busy", "-n", namespace, "-o", "json"))
        return answer

    before = pod()
    quota = _quota_file(before)
    assert _millicores(quota) == 200
    for millicores in (600, 150):
        size = {"cpu": f"{millicores}m"}
        patch = {"spec": {"containers": [{"name": "main", "resources": {"requests": size, "limits": size}}]}}
        kubectl("patch", "pod", "busy", "-n", namespace, "--subresource=resize", "-p", json.dumps(patch))
        assert _until(lambda: _millicores(quota) == millicores, timeout_s=10.0)  # noqa: B023 - called at once
    after = pod()["status"]["containerStatuses"][0]
    assert after["restartCount"] == 0
    assert after["containerID"] == before["status"]["containerStatuses"][0]["containerID"]


IN_POD = """
import os, ssl, urllib.request
import torch
import sponge_core.latency
account = "/var/run/secrets/kubernetes.io/serviceaccount/"
request = urllib.request.Request(
    "https://%s:%s/version" % (os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]),
    headers={"Authorization": "Bearer " + open(account + "token").read()},
)
answer = urllib.request.urlopen(request, context=ssl.create_default_context(cafile=account + "ca.crt"))
print("sum", int(torch.ones(3).sum()), "uid", os.getuid(), "api", answer.status)
"""


def test_this_python_runs_in_a_locked_down_pod_and_reaches_the_api(
    cluster: Cluster, kubectl: Kubectl, namespace: str
) -> None:
    python = cluster.python_pod()
    container = python.container() | {
        "command": [*python.command[:-2], "-c", IN_POD],
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    # Importing torch asks for a temporary folder.
    container["volumeMounts"].append({"name": "tmp", "mountPath": "/tmp"})
    volumes = [*python.volumes, {"name": "tmp", "emptyDir": {}}]
    account = {"runAsUser": 65532, "runAsNonRoot": True}
    document = _pod("python", container, volumes=volumes, restartPolicy="Never", securityContext=account)
    kubectl("apply", "-n", namespace, "-f", "-", document=document)

    def phase() -> str:
        return kubectl("get", "pod", "python", "-n", namespace, "-o", "jsonpath={.status.phase}")

    assert _until(lambda: phase() in ("Succeeded", "Failed"), timeout_s=120.0)
    logs = kubectl("logs", "python", "-n", namespace)
    assert logs.strip() == "sum 3 uid 65532 api 200"


# A cluster of two nodes beside any that runs, on a machine of its own. Prints a line for each thing that is left.
LIFE = """
set -e
sponge() { "$PYTHON" -m sponge_cli.main cluster "$@" --name e2e-life --json; }
sponge up --backend native --workers 2 > up1.json
KUBECONFIG=$("$PYTHON" -m sponge_cli.main cluster kubeconfig --name e2e-life) "$KUBECTL" apply -f pod.json
KUBECONFIG=$("$PYTHON" -m sponge_cli.main cluster kubeconfig --name e2e-life) \
    "$KUBECTL" wait --for=condition=Ready pod/victim --timeout=60s
for name in kubelet2 containerd2 kubelet containerd etcd; do
    kill -9 $("$PYTHON" -c "import json, sys
print(*[p['pid'] for p in json.load(open('up1.json'))['processes'] if p['name'] == sys.argv[1]])" $name)
done
sponge status > broken.json || true
sponge up --backend native > up2.json
sponge down
echo LEFT:
ls -d /sys/fs/cgroup/sponge-e2e-life /sys/fs/cgroup/*/sponge-e2e-life "$XDG_STATE_HOME/sponge/cluster/e2e-life" \
    2> /dev/null || true
find /var/lib/cni /var/log/containers /var/lib/kubelet -type f
ip -o link | grep -v ' lo:' || true
for family in iptables ip6tables; do $family-save | grep -E 'KUBE-|sponge' || true; done
grep "$XDG_STATE_HOME" /proc/self/mountinfo || true
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and Linux namespaces")
def test_a_crashed_cluster_is_replaced_and_down_leaves_nothing() -> None:
    # Not pytest's folder: sockets live in it, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="sponge-") as folder:
        _live(Path(folder))


def _live(tmp_path: Path) -> None:
    victim = _pod("victim", {"image": BUSYBOX_IMAGE, "command": ["/bin/sleep", "1000"]})
    (tmp_path / "pod.json").write_text(json.dumps(victim))
    environment = os.environ | {
        "XDG_STATE_HOME": str(tmp_path),
        "PYTHON": sys.executable,
        "KUBECTL": str(binaries.MODULE.ensure(["kubectl"], ConsoleProgress())["kubectl"]),
    }
    done = subprocess.run(
        [str(OWN_MACHINE), "sh", "-c", LIFE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / file).read_text()) for file in ("up1.json", "up2.json"))
    broken = json.loads((tmp_path / "broken.json").read_text())
    assert (first["state"], broken["state"], second["state"]) == ("running", "degraded", "running")
    assert (first["ready"], broken["ready"], second["ready"]) == (True, False, True)
    dead = [p["name"] for p in broken["processes"] if not p["running"]]
    assert dead == ["etcd", "containerd", "containerd2", "kubelet", "kubelet2"]
    assert [node["name"] for node in second["nodes"]] == ["e2e-life-node", "e2e-life-node2"]
    assert done.stdout.partition("LEFT:")[2].strip() == ""
    for process in first["processes"] + second["processes"]:
        state = Path(f"/proc/{process['pid']}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
