"""From the version before to this one on a real cluster: chart, CRD, operator, servers, while a service answers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
import time
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

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.long]

PREVIOUS = Path(__file__).parent / "data" / "previous"
PREVIOUS_CHART = PREVIOUS / "sponge-0.1.0.tgz"
PREVIOUS_PYTHON = "sponge-0.1.0.zip"
WHERE = "/opt/previous"
FINALIZER = "serving.sponge.dev/restore-size"
MOUNT = {"name": "previous", "mountPath": WHERE, "readOnly": True}
VOLUME = {"name": "previous", "hostPath": {"path": str(PREVIOUS), "type": "Directory"}}
SPEC: dict[str, Any] = {
    "model": {"name": "digits", "source": "digits://"},
    "slo": {"latency": "1s"},
    "cpu": {"min": "250m", "max": "500m", "step": "250m"},
}


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
    """Values of the chart of then; its operator and its servers run from the archive."""
    known: dict[str, Any] = yaml.safe_load(helm(cluster, "show", "values", str(PREVIOUS_CHART)))
    now = local_values(cluster.python_pod())
    values = {name: value for name, value in now.items() if name in known}
    server = {name: value for name, value in now["server"].items() if name in known["server"]}
    server["template"]["spec"]["volumes"].append(VOLUME)
    for container in server["template"]["spec"]["containers"]:
        container["command"] = from_the_archive(container["command"])
        container["volumeMounts"] = [*container["volumeMounts"], MOUNT]
    return {
        **values,
        "server": server,
        "command": from_the_archive(values["command"]),
        "volumes": [*values["volumes"], VOLUME],
        "volumeMounts": [*values["volumeMounts"], MOUNT],
    }


def from_the_archive(command: list[str]) -> list[str]:
    first, *words = (word for word in command if not word.startswith("PYTHONPATH="))
    return [first, f"PYTHONPATH={WHERE}/{PREVIOUS_PYTHON}", *words]


@pytest.fixture
def reinstalled(cluster: Cluster) -> Iterator[None]:
    yield
    install_operator(cluster)


@pytest.mark.usefixtures("reinstalled")
async def test_an_upgrade_while_requests_come(
    cluster: Cluster, kubectl: Kubectl, namespace: str, digits: Service
) -> None:
    helm(cluster, "uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found", "--wait")
    by_hand(digits, 250)  # so that the node has room for the next pod beside the one before
    await asyncio.to_thread(install_previous, cluster, kubectl)
    service = Service(kubectl, namespace, "upgraded")
    service.apply(**SPEC)
    await asyncio.to_thread(is_served_by_the_previous_one, service)
    address = kubectl("get", "service", service.name, "-n", namespace, "-o", "jsonpath={.spec.clusterIP}")
    began = time.monotonic()
    sending = asyncio.create_task(send_until(stop := asyncio.Event(), f"http://{address}:8080/v2/models/digits/infer"))
    try:
        await asyncio.to_thread(upgrade, cluster, kubectl)
        await asyncio.to_thread(is_served_by_this_one, service)
    finally:
        stop.set()
        statuses = await sending
    assert len(statuses) > time.monotonic() - began, "they came all the time, one a second at least"
    assert set(statuses) == {200}
    kubectl("delete", "sps", service.name, "-n", namespace, "--timeout=20s")


def install_previous(cluster: Cluster, kubectl: Kubectl) -> None:
    """As its users did, on a cluster that has not seen a later one."""
    crd: dict[str, Any] = yaml.safe_load(helm(cluster, "show", "crds", str(PREVIOUS_CHART)))
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", document=crd)
    more = ("--create-namespace", "--wait", "--timeout", "120s", "--skip-crds", "--values", "-")
    helm(cluster, "install", RELEASE, str(PREVIOUS_CHART), "-n", NAMESPACE, *more, values=previous_values(cluster))


def upgrade(cluster: Cluster, kubectl: Kubectl) -> None:
    """As the guide says: the CRD, then the chart with what its users have set before, and the images of now."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHART / "crds"))
    values = local_values(cluster.python_pod())
    more = ("--reset-then-reuse-values", "--wait", "--timeout", "120s", "--values", "-")
    helm(cluster, "upgrade", RELEASE, str(CHART), "-n", NAMESPACE, *more, values=values)


def is_served_by_the_previous_one(service: Service) -> None:
    eventually(lambda: FINALIZER in service.get()["metadata"].get("finalizers", ()), 30, "the old operator has it")
    eventually(lambda: service.is_("Ready", "True", "PodsReady"), 150, "its server is ready")


def is_served_by_this_one(service: Service) -> None:
    eventually(lambda: not service.get()["metadata"].get("finalizers"), 60, "nothing holds the object back any more")
    eventually(lambda: service.is_("Synced", "True", "Applied"), 60, "this operator has it")
    eventually(lambda: service.is_("Ready", "True", "PodsReady") and len(service.pods()) == 1, 150, "and it is ready")
    assert service.get()["status"]["serving"] == "1/1", "the CRD of now keeps the fields of now"
    service.patch(cpu={"min": "500m"})
    eventually(lambda: millicores(quota_file(service.pod())) == 500, 40, "and driven")


async def send_until(stop: asyncio.Event, url: str) -> list[int]:
    """Five requests a second; their HTTP statuses, 0 where there was no answer."""
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
                await asyncio.wait_for(stop.wait(), 0.2)
    return statuses
