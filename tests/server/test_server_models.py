"""Two real models in one real server: each has its own routes, SLO, profile and metrics; they share the cores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commanded_model import CRASH, FAIL
from server_process import PROFILE, ServerProcess, eventually

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One core, so one batch at a time."""
    directory = tmp_path_factory.mktemp("models")
    slow = directory / "slow.yaml"
    slow.write_text(PROFILE % {"gamma": 50.0, "one": 51.0})
    server = ServerProcess(
        directory,
        *("--model", "m=python://commanded_model:factory", "--model", "digits=python://digits_shaped:factory"),
        *("--profile", f"m={slow}", "--max-batch", "m=1", "--max-batch", "4"),
        *("--slo-ms", "m=30000", "--slo-ms", "10000", "--cores", "1", "--step-cores", "1"),
    )
    yield server
    assert server.stop() == 0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def digit() -> dict[str, Any]:
    return {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}]}


def state(server: ServerProcess) -> dict[str, Any]:
    document: dict[str, Any] = server.ask("/control/v1/state").json
    return document


def test_each_model_has_its_own_routes(server: ServerProcess) -> None:
    assert "serving m, digits at" in server.line
    assert server.get("/v2/health/ready").json == {"ready": True}
    for name, given in (("m", "command"), ("digits", "input")):
        document = server.get(f"/v2/models/{name}").json
        assert (document["name"], [spec["name"] for spec in document["inputs"]]) == (name, [given])
        assert server.get(f"/v2/models/{name}/versions/1/ready").json == {"name": name, "ready": True}
    assert server.infer("digits", digit()).json["model_name"] == "digits"
    assert server.command(7).json["outputs"][0]["data"] == [7]
    assert state(server)["models"] == ["m", "digits"]


@pytest.mark.parametrize("path", ["", "/ready", "/infer", "/versions/1/infer"])
def test_an_unknown_model_is_refused_with_the_known_names(server: ServerProcess, path: str) -> None:
    body = b"{}" if path.endswith("infer") else None
    reply = server.request(f"{server.data}/v2/models/mnist{path}", body)
    assert (reply.status, reply.json["type"]) == (404, "urn:sponge:problem:unknown-model")
    assert reply.json["detail"] == "no model 'mnist' here; this server has 'm', 'digits'"


def test_a_request_is_checked_against_its_own_model(server: ServerProcess) -> None:
    reply = server.infer("m", digit())
    assert (reply.status, "model m needs exactly the inputs command" in reply.json["detail"]) == (422, True)


def test_a_tight_request_of_one_model_goes_before_loose_ones_of_the_other(
    server: ServerProcess, pool: ThreadPoolExecutor
) -> None:
    finished: list[str] = []

    def send(name: str, status: int, *command: Any, **headers: str) -> None:
        reply = server.infer(*command, **headers)
        assert reply.status == status, reply.json
        finished.append(name)

    slow = {"inputs": [{"name": "command", "datatype": "INT64", "shape": [1, 1], "data": [300]}]}
    running = [pool.submit(send, "running", 200, "m", slow)]
    eventually(lambda: state(server)["threads_running"] == 1)
    loose = [pool.submit(send, "loose", 200, "m", slow) for _ in range(3)]
    eventually(lambda: state(server)["queue_length"] == 3)
    tight = pool.submit(send, "tight", 200, "digits", digit(), x_sponge_slo_ms="5000")
    for reply in (*running, *loose, tight):
        reply.result()
    assert finished.index("tight") < finished.index("loose")  # the first two end so close that either may be read first


def test_each_model_has_its_own_default_objective_and_largest_batch(
    server: ServerProcess, pool: ThreadPoolExecutor
) -> None:
    blocker = pool.submit(server.command, 400)
    eventually(lambda: state(server)["threads_running"] == 1)
    waiting = [pool.submit(server.command, 0), pool.submit(server.infer, "digits", digit())]
    eventually(lambda: state(server)["queue_length"] == 2)
    slack = state(server)["queue_slack_s"]
    assert 8 < slack[0] < 10
    assert 28 < slack[-1] < 30
    assert [reply.result().status for reply in (blocker, *waiting)] == [200] * 3
    # At most 1 row in a batch of m: three rows are three batches.
    batches = server.metric('sponge_batch_size_count{model="m"}')
    rows = {"inputs": [{"name": "command", "datatype": "INT64", "shape": [3, 1], "data": [0, 0, 0]}]}
    assert server.infer("m", rows).status == 200
    assert server.metric('sponge_batch_size_count{model="m"}') == batches + 3


def test_a_model_that_crashes_its_lane_does_not_affect_the_other(
    server: ServerProcess, pool: ThreadPoolExecutor
) -> None:
    stop = time.monotonic() + 3.0

    def steady() -> list[int]:
        statuses = []
        while time.monotonic() < stop:
            statuses.append(server.infer("digits", digit()).status)
        return statuses

    before = server.metric('sponge_lane_crashes_total{model="m"}')
    others = [pool.submit(steady) for _ in range(2)]
    broken = server.command(CRASH)
    assert (broken.status, "lost twice" in broken.json["detail"]) == (500, True)
    assert server.command(FAIL).status == 500
    statuses = [status for other in others for status in other.result()]
    assert len(statuses) > 10
    assert set(statuses) == {200}
    assert server.metric('sponge_lane_crashes_total{model="m"}') == before + 2
    assert server.metric('sponge_lane_crashes_total{model="digits"}') == 0


def test_metrics_are_kept_by_model(server: ServerProcess) -> None:
    def counted(model: str) -> tuple[float, float, float]:
        requests = f'sponge_requests_total{{model="{model}",outcome="in_time",slo_class="default"}}'
        latency = f'sponge_request_latency_seconds_count{{model="{model}",slo_class="default"}}'
        return (
            server.metric(requests),
            server.metric(latency),
            server.metric(f'sponge_batch_seconds_count{{model="{model}"}}'),
        )

    m, digits = counted("m"), counted("digits")
    assert server.infer("digits", digit()).status == 200
    assert counted("m") == m
    assert counted("digits") == tuple(value + 1 for value in digits)
    assert server.metric('sponge_queue_length{model="m"}') == 0


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as failed:
        ServerProcess(
            *(tmp_path, "--model", "a=python://digits_shaped:factory"),
            *("--model", "b=file:///nowhere/m.pt2", "--cores", "1"),
        )
    assert "sponge: model b: no model file '/nowhere/m.pt2'" in str(failed.value)
