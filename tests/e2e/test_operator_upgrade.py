"""From the version before to this one in the real cluster: chart, CRD and operator, while a service answers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from operator_kit import Kubectl, Service, by_hand, eventually, millicores, quota_file
from PIL import Image

from sponge_cluster import Cluster
from sponge_cluster.chart import CHART, NAMESPACE, RELEASE, install_operator, local_values

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

PREVIOUS = Path(__file__).parent / "data" / "previous"
PREVIOUS_CHART = PREVIOUS / "sponge-0.1.0.tgz"
OPERATOR = "sponge-0.1.0-operator.zip"
WHERE = "/opt/previous"
FINALIZER = "serving.sponge.dev/restore-size"


def helm(cluster: Cluster, *arguments: str, values: dict[str, Any] | None = None) -> str:
    done = subprocess.run(
        [str(cluster.helm), "--kubeconfig", str(cluster.kubeconfig), *arguments],
        input=None if values is None else json.dumps(values),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def previous_values(cluster: Cluster) -> dict[str, Any]:
    """Values of the chart of then: its operator runs from the archive, the servers from the source tree."""
    values = local_values(cluster.python_pod())
    del values["server"]["templateSecurity"]
    words = [word for word in values["command"] if not word.startswith("PYTHONPATH=")]
    folder = {"path": str(PREVIOUS), "type": "Directory"}
    return {
        **values,
        "command": [words[0], f"PYTHONPATH={WHERE}/{OPERATOR}", *words[1:]],
        "volumes": [*values["volumes"], {"name": "previous", "hostPath": folder}],
        "volumeMounts": [*values["volumeMounts"], {"name": "previous", "mountPath": WHERE, "readOnly": True}],
    }


@pytest.fixture
def reinstalled(cluster: Cluster) -> Iterator[None]:
    yield
    install_operator(cluster)


@pytest.mark.usefixtures("reinstalled")
async def test_an_upgrade_while_requests_come(cluster: Cluster, kubectl: Kubectl, digits: Service) -> None:
    helm(cluster, "uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found", "--wait")
    by_hand(digits, 250)  # so that the node has room for the next pod beside it
    await asyncio.to_thread(install_previous, cluster, kubectl)
    await asyncio.to_thread(belongs_to_the_previous_one, kubectl, digits)
    by_hand(digits, 250)
    address = kubectl("get", "service", digits.name, "-n", digits.namespace, "-o", "jsonpath={.spec.clusterIP}")
    sending = asyncio.create_task(send_until(stop := asyncio.Event(), f"http://{address}:8080/v2/models/digits/infer"))
    try:
        await asyncio.to_thread(upgrade, cluster, kubectl)
        await asyncio.to_thread(is_driven_by_this_one, digits)
    finally:
        stop.set()
        statuses = await sending
    assert len(statuses) > 50
    assert set(statuses) == {200}


def install_previous(cluster: Cluster, kubectl: Kubectl) -> None:
    """As its users did, on a cluster that has not seen a later one."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", document=crd(cluster))
    values = previous_values(cluster)
    more = ("--create-namespace", "--wait", "--timeout", "120s", "--skip-crds", "--values", "-")
    helm(cluster, "install", RELEASE, str(PREVIOUS_CHART), "-n", NAMESPACE, *more, values=values)


def upgrade(cluster: Cluster, kubectl: Kubectl) -> None:
    """As the guide says, with what its users have set before."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHART / "crds"))
    values = {"command": local_values(cluster.python_pod())["command"]}
    more = ("--reset-then-reuse-values", "--wait", "--timeout", "120s", "--values", "-")
    helm(cluster, "upgrade", RELEASE, str(CHART), "-n", NAMESPACE, *more, values=values)


def crd(cluster: Cluster) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(helm(cluster, "show", "crds", str(PREVIOUS_CHART)))
    return document


def belongs_to_the_previous_one(kubectl: Kubectl, digits: Service) -> None:
    """It makes the pods anew, as it did then. It sizes only servers of its own time, which these are not."""
    eventually(lambda: FINALIZER in digits.get()["metadata"].get("finalizers", ()), 30, "the old operator has it")
    kubectl("rollout", "status", f"deployment/{digits.name}", "-n", digits.namespace, "--timeout=90s")
    eventually(lambda: len(digits.pods()) == 1, 30, "one pod is left")


def is_driven_by_this_one(digits: Service) -> None:
    eventually(lambda: not digits.get()["metadata"].get("finalizers"), 60, "nothing holds the object back any more")
    eventually(lambda: digits.is_("Synced", "True", "Applied"), 60, "this operator has it")
    eventually(lambda: digits.is_("Ready", "True", "PodsReady") and len(digits.pods()) == 1, 90, "and it is ready")
    assert digits.get()["status"]["serving"] == "1/1", "the CRD of now keeps the fields of now"
    digits.patch(cpu={"min": "500m"})
    eventually(lambda: millicores(quota_file(digits.pod())) == 500, 40, "and driven")
    digits.patch(cpu={"min": "250m"})


async def send_until(stop: asyncio.Event, url: str) -> list[int]:
    """Ten requests a second; their HTTP statuses, 0 where there was no answer."""
    statuses: list[int] = []
    Image.new("L", (8, 8)).save(picture := io.BytesIO(), "JPEG")
    headers = {"Content-Type": "image/jpeg", "x-sponge-slo-ms": "5000"}
    async with aiohttp.ClientSession(headers=headers) as session:
        while not stop.is_set():
            try:
                async with session.post(url, data=picture.getvalue()) as answer:
                    await answer.read()
                    statuses.append(answer.status)
            except (TimeoutError, aiohttp.ClientError, OSError):
                statuses.append(0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.1)
    return statuses
