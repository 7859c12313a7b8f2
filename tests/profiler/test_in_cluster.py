"""The pod of a measurement: its manifest, what keeps it from starting, and the protocol of its worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sponge_profiler.in_cluster import PodError, PodPlan, hindrance, pod_manifest, read_template


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


@pytest.mark.parametrize(
    ("text", "message"), [("- a", "partial pod template"), ("kind: Pod", "metadata or spec"), ("{", "--template")]
)
def test_a_template_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(text)
    with pytest.raises(PodError, match=message):
        read_template(file)
    with pytest.raises(PodError, match="No such file"):
        read_template(tmp_path / "none.yaml")


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
    assert 0 < answers[2]["cpu_s"] < 10
    assert answers[3]["quota_milli"] is None or answers[3]["quota_milli"] > 0
    assert "99" in answers[4]["error"]
