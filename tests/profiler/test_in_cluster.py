"""The pod of a measurement: its manifest, what keeps it from starting, and the protocol of its worker."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from sponge_operator.autoscale import resize
from sponge_operator.clients.kube import ApiError
from sponge_profiler.in_cluster import PodError, PodPlan, ProfilePod, hindrance, pod_manifest


def test_a_template_may_add_but_not_take_away_what_measuring_takes() -> None:
    template = {
        "spec": {
            "nodeSelector": {"kind": "fast"},
            "containers": [{"name": "server", "image": "mine:1", "stdin": False, "resources": {"limits": {"cpu": 9}}}],
        }
    }
    pod = pod_manifest(PodPlan("models", None, template, "3Gi"), "p", ["profile-worker"], 1500)
    (container,) = pod["spec"]["containers"]
    assert pod["metadata"]["namespace"] == "models"
    assert pod["spec"]["nodeSelector"] == {"kind": "fast"}
    assert (pod["spec"]["restartPolicy"], container["image"]) == ("Never", "mine:1")
    # Guaranteed, resized without a restart, and gone with who measures.
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"cpu": "1500m", "memory": "3Gi"}
    assert container["resizePolicy"] == [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]
    assert (container["stdin"], container["stdinOnce"]) == (True, True)


def test_an_image_that_is_named_goes_over_the_templates() -> None:
    template = {"spec": {"containers": [{"name": "server", "image": "mine:1"}]}}
    pod = pod_manifest(PodPlan("default", "mine:2", template, "2Gi"), "p", [], 1000)
    assert pod["spec"]["containers"][0]["image"] == "mine:2"


def waiting(reason: str, message: str = "m") -> dict[str, Any]:
    return {"containerStatuses": [{"state": {"waiting": {"reason": reason, "message": message}}}]}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({}, None),
        (waiting("ContainerCreating"), None),
        ({"conditions": [{"type": "PodScheduled", "status": "True"}]}, None),
        (
            {"conditions": [{"type": "PodScheduled", "reason": "Unschedulable", "message": "1 Insufficient cpu"}]},
            "1 Insufficient cpu; measure fewer cores with --cores",
        ),
        (waiting("ErrImagePull", "not found"), "ErrImagePull: not found; name an image with --image"),
        (waiting("CreateContainerConfigError", "no secret"), "no secret"),
        ({"phase": "Failed", "message": "Pod was rejected: OutOfcpu"}, "OutOfcpu"),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}, "OOMKilled"),
    ],
)
def test_what_keeps_a_pod_from_running_is_said_at_once(state: dict[str, Any], says: str | None) -> None:
    found = hindrance({"status": state})
    assert found is None if says is None else says in str(found)


class FakeCluster:
    """The API server and the kubelet of one pod that starts with 2 cores; `ignores` resizes are lost on the kubelet."""

    def __init__(self, ignores: int = 0, refusal: ApiError | None = None, pending: str = "") -> None:
        self.patches: list[int] = []
        self.quota = 2000
        self._ignores = ignores
        self._refusal = refusal
        self._pending = pending
        self.pod = self._pod(2000)

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        return copy.deepcopy(self.pod)

    async def resize(self, pod: Mapping[str, Any], container: str, milli: int) -> dict[str, Any]:
        self.patches.append(milli)
        if self._refusal is not None:
            raise self._refusal
        self._ignores -= 1
        if self._ignores < 0 and not self._pending:
            self.quota = milli
        self.pod = self._pod(milli)
        return copy.deepcopy(self.pod)

    async def ask(self, question: Mapping[str, Any], within_s: float) -> Mapping[str, Any]:
        return {"quota_milli": self.quota}

    def _pod(self, milli: int) -> dict[str, Any]:
        limits, actual = {"cpu": f"{milli}m"}, {"cpu": f"{self.quota}m"}
        status: dict[str, Any] = {"name": "server", "state": {"running": {}}, "resources": {"limits": actual}}
        pending = {"type": "PodResizePending", "status": "True", "reason": "Deferred", "message": self._pending}
        return {
            "metadata": {"name": "p", "uid": "u", "generation": len(self.patches)},
            "spec": {"containers": [{"name": "server", "resources": {"limits": limits}}]},
            "status": {
                "phase": "Running",
                "conditions": [pending] if self._pending and milli != self.quota else [],
                "containerStatuses": [status],
            },
        }


def profile_pod(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> ProfilePod:
    pod = ProfilePod(PodPlan("default", None, {}, "2Gi"), ["digits://"], 2000, lambda _: None)
    monkeypatch.setattr(pod, "_kube", cluster)
    monkeypatch.setattr(pod, "_pod", cluster.pod)
    monkeypatch.setattr(pod, "_ask", cluster.ask)
    return pod


async def test_a_pod_is_resized_until_its_quota_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    pod = profile_pod(cluster, monkeypatch)
    await pod.set_cores(2.0)
    assert cluster.patches == []
    await pod.set_cores(0.5)
    assert (cluster.patches, cluster.quota) == ([500], 500)


async def test_a_stuck_resize_is_repeated_with_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "STUCK_S", 0.05)
    cluster = FakeCluster(ignores=1)
    await profile_pod(cluster, monkeypatch).set_cores(1.0)
    assert cluster.patches == [1000, 999, 1000]


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (FakeCluster(refusal=ApiError(403, {"message": "no right"})), "was refused 1 cores: no right; name others"),
        (
            FakeCluster(pending="no room"),
            "cannot have 1 cores on node  now: the node has no room now: no room; free some",
        ),
    ],
    ids=["refused", "deferred"],
)
async def test_a_size_that_cannot_be_had_ends_the_measurement(
    cluster: FakeCluster, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PodError, match=message):
        await profile_pod(cluster, monkeypatch).set_cores(1.0)
    assert cluster.quota == 2000


@pytest.mark.torch
def test_the_worker_answers_each_line_and_ends_with_its_input() -> None:
    questions = [
        {"id": 1},
        {"id": 2, "batch": 4, "threads": 1},
        {"id": 3, "quota": True},
        {"id": 4, "batch": 99, "threads": 1},
    ]
    command = [sys.executable, "-m", "sponge_cli.main", "profile-worker", "digits://", "--name", "d"]
    done = subprocess.run(
        [*command, "--max-batch", "4", "--lanes", "2", "--threads", "1"],
        input="".join(json.dumps(question) + "\n" for question in questions),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = {answer["id"]: answer for answer in map(json.loads, done.stdout.splitlines())}
    assert set(answers) == {1, 2, 3, 4}
    assert "CPUs" in answers[1]["about"]["surroundings"]["the machine"]
    assert answers[1]["about"]["sizes"] is None
    assert 0 < answers[2]["cpu_s"] < 10
    assert answers[3]["quota_milli"] is None or answers[3]["quota_milli"] > 0
    assert "99" in answers[4]["error"]
