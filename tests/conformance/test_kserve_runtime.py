"""The runtime for KServe: its manifests fit KServe's own models, and its container serves KServe's client."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from drivers import Ask
from server_process import ServerProcess
from stock_clients import Remote

from sponge_release.version import ROOT

pytestmark = pytest.mark.torch

FOLDER = ROOT / "deploy/kserve"
RUNTIME: dict[str, Any] = yaml.safe_load((FOLDER / "runtime.yaml").read_text())
MODEL: dict[str, Any] = yaml.safe_load((FOLDER / "model.yaml").read_text())
(CONTAINER,) = RUNTIME["spec"]["containers"]
MOUNT, NAME = "/mnt/models", "{{.Name}}"
PORTS = ("--http-port", "--grpc-port", "--control-port", "--host")


def lacking(process: subprocess.Popen[str], manifest: Any) -> list[str]:
    """What KServe's and Kubernetes' models do not know in a manifest."""
    python: str = process.args[0]  # type: ignore[index, assignment]
    command = [python, str(Path(__file__).with_name("kserve_schema.py"))]
    done = subprocess.run(command, input=json.dumps(manifest), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("manifest", [RUNTIME, MODEL], ids=["runtime", "model"])
def test_the_manifests_fit_kserves_models(kserve_process: subprocess.Popen[str], manifest: Any) -> None:
    assert [line for line in lacking(kserve_process, manifest) if line] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [(("spec", "protocolVersion"), "v2"), (("spec", "containers"), {}), (("spec", "multiModel"), "no")],
)
def test_the_comparison_finds_mistakes(
    kserve_process: subprocess.Popen[str], path: tuple[str, str], value: Any
) -> None:
    wrong = json.loads(json.dumps(RUNTIME))
    wrong[path[0]][path[1]] = value
    assert [line for line in lacking(kserve_process, wrong) if line]


def test_the_model_names_the_runtime_and_its_format() -> None:
    told = MODEL["spec"]["predictor"]["model"]
    assert told["runtime"] == RUNTIME["metadata"]["name"]
    assert told["modelFormat"]["name"] in [entry["name"] for entry in RUNTIME["spec"]["supportedModelFormats"]]
    assert told["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The container's command, with ports and folder of the test."""
    folder = tmp_path_factory.mktemp("models")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(network, (torch.rand(2, 1, 8, 8),), dynamic_shapes=dynamic)
    torch.export.save(program, folder / "model.pt2")
    serve, *arguments = CONTAINER["args"]
    assert serve == "serve"
    given = [word.replace(NAME, "linear").replace(MOUNT, str(folder)) for word in arguments]
    server = ServerProcess(folder, *(word for word in given if not word.startswith(PORTS)), token=False)
    yield server
    assert server.stop() == 0


def test_the_probes_of_the_container_are_answered(server: ServerProcess) -> None:
    flags = dict(word.removeprefix("--").split("=", 1) for word in CONTAINER["args"][1:])
    ports = {int(flags["http-port"]): server.data, int(flags["control-port"]): server.control}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = CONTAINER[probe]["httpGet"]
        assert server.request(ports[asked["port"]] + asked["path"]).status == 200
    annotations = RUNTIME["spec"]["annotations"]
    scraped = ports[int(annotations["prometheus.kserve.io/port"])] + annotations["prometheus.kserve.io/path"]
    assert b"sponge_requests_total" in server.request(scraped).body


@pytest.mark.parametrize("form", ["kserve-rest", "kserve-grpc"])
def test_kserves_client_gets_answers(kserve_process: subprocess.Popen[str], server: ServerProcess, form: str) -> None:
    driver = Remote(kserve_process, form, server)
    assert driver.health("linear") == {"live": True, "ready": True, "model": True}
    name = server.get("/v2/models/linear").json["inputs"][0]["name"]
    rows = np.random.default_rng(1).random((3, 1, 8, 8), dtype=np.float32)
    reply = driver.infer(Ask("linear", [(name, "FP32", [3, 1, 8, 8], rows)]))
    assert reply.error == ""
    ((datatype, shape, values),) = reply.outputs.values()
    assert (datatype, shape, len(values)) == ("FP32", [3, 10], 30)
