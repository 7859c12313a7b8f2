"""`sponge profile --in-cluster` on a real kubelet: a pod resized through a tiny grid, and gone whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from operator_kit import Kubectl, eventually

from sponge_cluster import BUSYBOX_IMAGE, Cluster
from sponge_profiler.in_cluster import PodError, PodPlan, ProfilePod
from sponge_profiles.profile import load_profile

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

GRID = ("--cores", "0.5,1", "--batches", "1,32", "--repeat", "4", "--form", "formula")


@contextmanager
def sponge(cluster: Cluster, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`sponge profile digits:// --in-cluster`, ended in any case."""
    command = [sys.executable, "-m", "sponge_cli.main", "profile", "digits://", "--in-cluster", *arguments]
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def pods(kubectl: Kubectl, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
    return found


def runs(kubectl: Kubectl, namespace: str) -> bool:
    return any(pod["status"].get("phase") == "Running" for pod in pods(kubectl, namespace))


def test_a_pod_is_resized_through_the_grid_and_deleted(
    cluster: Cluster, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    file = tmp_path / "d.yaml"
    with sponge(cluster, *GRID, "--namespace", namespace, "-o", str(file)) as measuring:
        _, said = measuring.communicate(timeout=180)
    assert measuring.returncode == 0, said
    profile = load_profile(str(file))
    assert {(point.batch, point.threads) for point in profile.points} == {(1, 1), (32, 1)}
    assert {(point.cores, point.batch) for point in profile.quotas} == {(0.5, 1), (0.5, 32)}
    assert f"a pod on node {cluster.node}, resized in place" in profile.source
    assert profile.memory is not None
    eventually(lambda: not pods(kubectl, namespace), 20, "the pod is gone")
    assert not (tmp_path / "d.yaml.part").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cores", "64"), "Insufficient cpu"),
        (("--cores", "1", "--namespace", "nowhere"), "no namespace 'nowhere'"),
        (("--cores", "1", "--no-limit"), "leave it out"),
    ],
    ids=["cores", "namespace", "limit"],
)
def test_what_cannot_be_is_said_in_a_line(
    cluster: Cluster, kubectl: Kubectl, namespace: str, arguments: tuple[str, ...], message: str
) -> None:
    where = () if "--namespace" in arguments else ("--namespace", namespace)
    with sponge(cluster, *arguments, *where) as refused:
        _, said = refused.communicate(timeout=120)
    assert refused.returncode == 2, said
    assert message in said
    assert "Traceback" not in said
    eventually(lambda: not pods(kubectl, namespace), 20, "the pod is gone")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_an_interrupt_deletes_the_pod(
    cluster: Cluster, kubectl: Kubectl, namespace: str, tmp_path: Path, ending: signal.Signals
) -> None:
    file = tmp_path / "d.yaml"
    with sponge(cluster, *GRID, "--repeat", "10000", "--namespace", namespace, "-o", str(file)) as measuring:
        eventually(lambda: (tmp_path / "d.yaml.part").exists(), 60, "it measures")
        measuring.send_signal(ending)
        _, said = measuring.communicate(timeout=60)
    assert measuring.returncode == 130, said
    assert "the same command continues there" in said
    eventually(lambda: not pods(kubectl, namespace), 20, "the pod is gone")


def test_a_pod_whose_maker_was_killed_ends_by_itself(
    cluster: Cluster, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    file = tmp_path / "d.yaml"
    with sponge(cluster, *GRID, "--repeat", "10000", "--namespace", namespace, "-o", str(file)) as measuring:
        eventually(lambda: (tmp_path / "d.yaml.part").exists(), 60, "it measures")
        measuring.kill()
        measuring.communicate()
    eventually(lambda: not runs(kubectl, namespace), 30, "the pod has ended")


def test_a_size_that_the_node_has_no_room_for_any_more_ends_it(
    cluster: Cluster, kubectl: Kubectl, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    cpus = int(json.loads(kubectl("get", "node", cluster.node, "-o", "json"))["status"]["allocatable"]["cpu"])
    plan = PodPlan(namespace, None, {}, "1Gi")
    arguments = ["digits://", "--name", "d", "--max-batch", "1", "--lanes", "1", "--threads", "1"]
    limits = {"cpu": f"{1000 * cpus - 900}m"}
    greedy = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "greedy"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": BUSYBOX_IMAGE,
                    "imagePullPolicy": "Never",
                    "command": ["sleep", "600"],
                    "resources": {"requests": limits, "limits": limits},
                }
            ],
        },
    }

    async def measure() -> None:
        async with ProfilePod(plan, arguments, 1000, lambda _: None) as pod:
            assert (await pod.run_batch(1, 1)).cpu_s > 0
            await pod.set_cores(0.25)
            await asyncio.to_thread(kubectl, "apply", "-n", namespace, "-f", "-", document=greedy)
            waiting = ("wait", "--for=condition=Ready", "pod/greedy", "-n", namespace, "--timeout=60s")
            await asyncio.to_thread(kubectl, *waiting)
            await pod.set_cores(1.0)

    with pytest.raises(PodError, match=rf"cannot have 1 cores on node {cluster.node} now: .*free some there"):
        asyncio.run(measure())
    eventually(lambda: [pod["metadata"]["name"] for pod in pods(kubectl, namespace)] == ["greedy"], 20, "it is gone")
