"""Versions of a model in a real server: one is loaded beside the other, takes over under load, fails, is unloaded."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from memory_cgroup import memory_cgroup
from server_process import TOKEN, Reply, ServerProcess, eventually, oom_score
from version_models import WAIT_FOR

from sponge_system.cgroup import read_oom_kills
from sponge_system.oom_score import FORK_SERVER, LANE, LOADING

pytestmark = pytest.mark.torch

SOURCE = "python://version_models:Version?answer={}"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that versions with `waits` wait for."""
    return tmp_path_factory.mktemp("gate") / "open"


OPTIONS = (
    *("--model-control", "explicit", "--max-batch", "4", "--slo-ms", "30000", "--cores", "1"),
    *("--warm-up-s", "1", "--profile-s", "0.5"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, gate: Path) -> Iterator[ServerProcess]:
    """A server for all tests here: each leaves a version behind that answers 1."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(WAIT_FOR, str(gate))
        server = ServerProcess(tmp_path_factory.mktemp("m"), "--model", f"m={SOURCE.format(1)}", *OPTIONS)
    yield server
    assert server.stop() == 0


def load(server: ServerProcess, source: str | None = None, model: str = "m") -> Reply:
    body = {} if source is None else {"parameters": {"source": source}}
    return server.request(f"{server.data}/v2/repository/models/{model}/load", json.dumps(body).encode(), BEARER)


def unload(server: ServerProcess) -> Reply:
    return server.request(f"{server.data}/v2/repository/models/m/unload", b"", BEARER)


def ask(server: ServerProcess, milliseconds: float = 0.0, version: str | None = None) -> Reply:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [milliseconds]}]}
    at = "" if version is None else f"/versions/{version}"
    return server.request(f"{server.data}/v2/models/m{at}/infer", json.dumps(body).encode())


def answer(reply: Reply) -> tuple[str, float]:
    """The version that the server says has answered, and the one that has."""
    assert reply.status == 200, reply.body
    return reply.json["model_version"], reply.json["outputs"][0]["data"][0]


def index(server: ServerProcess, **wanted: bool) -> list[tuple[str, str]]:
    entries = server.request(f"{server.data}/v2/repository/index", json.dumps(wanted).encode()).json
    return [(entry["version"], entry["state"]) for entry in entries]


def newest(server: ServerProcess) -> int:
    """Number of the newest version, loaded or not."""
    return max(int(version) for version, _ in index(server))


def serving(server: ServerProcess) -> str:
    """The version that serves."""
    ((version, _),) = index(server, ready=True)
    return version


class Traffic:
    """Clients that send one request after the other."""

    def __init__(self, server: ServerProcess, clients: int = 4) -> None:
        self._server = server
        self._ending = threading.Event()
        self.answers: list[list[tuple[int, str, float]]] = [[] for _ in range(clients)]
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(clients)]

    def _send(self, number: int) -> None:
        while not self._ending.is_set():
            reply = ask(self._server, 5.0)
            found = reply.json["outputs"][0]["data"][0] if reply.status == 200 else 0.0
            self.answers[number].append((reply.status, reply.json.get("model_version", ""), found))

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    @property
    def count(self) -> int:
        return sum(map(len, self.answers))


def test_a_version_takes_over_under_load_without_a_lost_request(server: ServerProcess) -> None:
    one = newest(server)
    two, three = one + 1, one + 2
    live = server.metric('sponge_model_loads_total{model="m",outcome="live"}') if one > 1 else 0
    with Traffic(server) as traffic:
        eventually(lambda: traffic.count > 20)
        assert load(server, SOURCE.format(2)).json == {"name": "m", "version": str(two)}
        assert answer(ask(server)) == (str(two), 2.0)
        after = traffic.count
        eventually(lambda: traffic.count > after + 20)
        assert load(server, SOURCE.format(1)).json["version"] == str(three)
        after = traffic.count
        eventually(lambda: traffic.count > after + 20)
    for answers in traffic.answers:
        assert {status for status, _, _ in answers} == {200}
        found = [(int(version), by) for _, version, by in answers]
        assert found == sorted(found, key=lambda each: each[0]), "no request gets an older version than one before it"
        assert set(found) == {(one, 1.0), (two, 2.0), (three, 1.0)}, "an answer says which version has given it"
    eventually(lambda: index(server) == [(str(three), "READY")])
    assert server.get("/v2/models/m").json["versions"] == [str(three)]
    assert server.get(f"/v2/models/m/versions/{three}/ready").status == 200
    assert server.get(f"/v2/models/m/versions/{two}/ready").status == 404
    assert answer(ask(server, version=str(three))) == (str(three), 1.0)
    refused = ask(server, version=str(one))
    assert (refused.status, f"has version '{three}' only" in refused.json["detail"]) == (404, True)
    assert server.metric(f'sponge_model_version{{model="m",version="{three}"}}') == 1
    assert server.metric('sponge_model_loads_total{model="m",outcome="live"}') == live + 2
    assert server.metric("sponge_lanes_healthy") == server.metric("sponge_lanes") == 1
    with pytest.raises(KeyError):
        server.metric(f'sponge_model_version{{model="m",version="{one}"}}')


def test_a_request_that_came_for_the_former_version_is_answered_by_it(server: ServerProcess) -> None:
    """Also where the new one takes other inputs: one batch runs and others wait when it takes over."""
    one, number = serving(server), newest(server) + 1
    replies: list[Reply] = []
    clients = [threading.Thread(target=lambda: replies.append(ask(server, 4000.0))) for _ in range(6)]
    for client in clients:
        client.start()
    eventually(lambda: server.ask("/control/v1/state").json["queue_length"] > 0)
    assert load(server, "python://version_models:Wider?answer=2").status == 200
    assert (one, "UNLOADING") in index(server)
    assert index(server, ready=True) == [(str(number), "READY")]
    assert ask(server).status == 422, "the new version takes two numbers"
    for client in clients:
        client.join()
    assert [answer(reply) for reply in replies] == [(one, 1.0)] * 6
    eventually(lambda: index(server) == [(str(number), "READY")])
    assert load(server, SOURCE.format(1)).status == 200


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("python://version_models:Version?fails=true", "these weights are torn"),
        ("python://version_models:Version?dies=true", "process"),
        ("python://version_models:Nobody", "Nobody"),
        ("nothing://at-all", "unknown kind"),
    ],
)
def test_a_version_that_cannot_be_loaded_changes_nothing(server: ServerProcess, source: str, why: str) -> None:
    served = serving(server)
    failed = str(newest(server) + 1)
    with Traffic(server, clients=1) as traffic:
        refused = load(server, source)
    assert refused.status == 422
    assert refused.json["type"] == "urn:sponge:problem:load-failed"
    assert why in refused.json["detail"]
    assert f"version {served} serves on" in refused.json["detail"]
    assert {status for status, _, _ in traffic.answers[0]} == {200}
    assert index(server) == [(served, "READY"), (failed, "UNAVAILABLE")]
    entries = server.request(f"{server.data}/v2/repository/index", b"").json
    assert why in entries[1]["reason"]
    assert server.metric('sponge_model_loads_total{model="m",outcome="failed"}') >= 1
    assert "model.load_failed" in server.errors.read_text()
    assert answer(ask(server)) == (served, 1.0)


def test_one_load_at_a_time(server: ServerProcess, gate: Path) -> None:
    number = str(newest(server) + 1)
    replies: list[Reply] = []
    first = threading.Thread(target=lambda: replies.append(load(server, SOURCE.format(1) + "&waits=true")))
    first.start()
    eventually(lambda: (number, "LOADING") in index(server))
    second, third = load(server, SOURCE.format(3)), unload(server)
    assert (second.status, third.status) == (409, 409)
    assert f"version {number} of 'm' is being loaded" in second.json["detail"]
    assert int(answer(ask(server))[0]) < int(number), "the former one serves meanwhile"
    gate.touch()
    first.join()
    gate.unlink()
    assert replies[0].json["version"] == number
    assert answer(ask(server)) == (number, 1.0)


def source_of(server: ServerProcess, wanted: str | None = None) -> Any:
    """What the control port says of the model's source, or answers to a request for another one."""
    return server.ask("/control/v1/models/m/source", None if wanted is None else {"source": wanted}).json


def test_the_control_port_changes_the_source_without_waiting(server: ServerProcess, gate: Path) -> None:
    former, wanted = SOURCE.format(1), SOURCE.format(1) + "&waits=true"
    number = newest(server) + 1
    load(server, former)
    for _ in range(2):  # the second request finds it under way
        asked = source_of(server, wanted)
        assert (asked["serving"], asked["loading"], asked["failed"]) == (former, wanted, None)
    assert source_of(server, SOURCE.format(2))["type"] == "urn:sponge:problem:load-in-progress"
    assert answer(ask(server)) == (str(number), 1.0)
    gate.touch()
    eventually(lambda: source_of(server)["serving"] == wanted)
    gate.unlink()
    assert source_of(server, wanted)["loading"] is None, "it serves already"
    assert answer(ask(server)) == (str(number + 1), 1.0)
    assert server.ask("/control/v1/profile").json["source"] == wanted
    eventually(lambda: source_of(server) == {"serving": wanted, "loading": None, "ending": False, "failed": None})


def test_the_control_port_tells_why_a_source_was_not_loaded(server: ServerProcess) -> None:
    former, wanted = source_of(server)["serving"], SOURCE.format(2) + "&fails=true"
    source_of(server, wanted)
    eventually(lambda: source_of(server)["failed"] is not None)
    found = source_of(server)
    assert (found["serving"], found["failed"]["source"], found["failed"]["no_room"]) == (former, wanted, False)
    assert "these weights are torn" in found["failed"]["message"]
    assert server.ask("/control/v1/models/n/source").status == 404
    assert server.ask("/control/v1/models/m/source", {"source": ""}).status == 422
    assert server.ask("/control/v1/models/m/source", token="other").status == 401


def test_an_unloaded_model_is_gone_until_it_is_loaded_again(server: ServerProcess) -> None:
    served, number = serving(server), newest(server)
    replies: list[Reply] = []
    running = threading.Thread(target=lambda: replies.append(ask(server, 800.0)))
    running.start()
    eventually(lambda: server.ask("/control/v1/state").json["threads_running"] > 0)
    assert unload(server).status == 200
    for path in ("/v2/models/m", "/v2/models/m/ready", "/v2/models/m/config", "/v2/models/m/stats"):
        assert server.get(path).status == 404
    refused = ask(server)
    assert (refused.status, refused.json["type"]) == (404, "urn:sponge:problem:unloaded-model")
    running.join()
    assert answer(replies[0]) == (served, 1.0)
    assert server.get("/v2/health/ready").status == 200, "the server itself is well"
    eventually(lambda: index(server)[0] == (served, "UNAVAILABLE"))
    assert unload(server).status == 200
    assert load(server, SOURCE.format(1)).json["version"] == str(number + 1)
    assert answer(ask(server)) == (str(number + 1), 1.0)
    assert index(server) == [(str(number + 1), "READY")]


def test_the_clients_of_triton(server: ServerProcess) -> None:
    """Their `config` carries the source."""
    two, three = str(newest(server) + 1), str(newest(server) + 2)
    source = {"source": {"string_value": SOURCE.format(1)}}
    config = json.dumps({"max_batch_size": 2, "parameters": source})
    rest = triton_http.InferenceServerClient(server.data.removeprefix("http://"), network_timeout=60)
    rest.load_model("m", headers=BEARER, config=config)
    assert rest.get_model_metadata("m", two)["versions"] == [two]
    assert rest.get_model_config("m")["max_batch_size"] == 2
    assert rest.is_model_ready("m")
    rest.unload_model("m", headers=BEARER)
    assert not rest.is_model_ready("m")
    rest.close()
    with triton_grpc.InferenceServerClient(server.grpc) as rpc:
        assert not rpc.is_model_ready("m")
        rpc.load_model("m", headers=BEARER)
        assert rpc.is_model_ready("m", three)
        states: Any = rpc.get_model_repository_index(as_json=True)
        assert {"name": "m", "version": three, "state": "READY"} in states["models"]


def test_what_is_loaded_is_what_the_kernel_kills_first_until_it_takes_over(server: ServerProcess, gate: Path) -> None:
    base = oom_score(server.process.pid)
    loading = threading.Thread(target=lambda: load(server, SOURCE.format(1) + "&waits=true"))
    loading.start()
    eventually(lambda: {one - base for one in family_scores(server)} == {FORK_SERVER, LANE, FORK_SERVER + LOADING})
    gate.touch()
    loading.join()
    gate.unlink()
    eventually(lambda: [one - base for one in family_scores(server)] == [FORK_SERVER, LANE])


def family_scores(server: ServerProcess) -> list[int]:
    """Of all processes that come from the server."""
    return sorted(oom_score(one.pid) for one in psutil.Process(server.process.pid).children(recursive=True))


def test_both_versions_must_fit_into_the_memory_limit(tmp_path: Path) -> None:
    """The first one is small: the estimate lets the others be loaded. The measurement decides, or what is left.

    The memory for requests counts, though none are there: so there is a wide range of what does not fit, and yet does
    not run out of memory. The kernel ends nothing: in a pod, it would end all.
    """
    model = ("--model", "m=python://version_models:Hungry", "--max-queue-bytes", "1Gi")
    with memory_cgroup(2 << 30) as group:
        server = ServerProcess(tmp_path, *model, *OPTIONS, cgroup=group)
        try:
            # More than fits with the other one, and more than fits at all.
            wanted = ("mib=900", "mib=3000", "mib=3000&of=torch", "mib=3000&pieces=300", "mib=3000&pieces=300&of=torch")
            for options in wanted:
                refused = load(server, f"python://version_models:Hungry?answer=2&{options}")
                problem = refused.json
                assert (refused.status, problem["type"]) == (422, "urn:sponge:problem:no-room-for-version"), options
                assert "MiB" in problem["detail"]
                assert read_oom_kills(group) == 0, options
            assert server.metric('sponge_model_loads_total{model="m",outcome="no-room"}') == len(wanted)
            assert answer(ask(server)) == ("1", 1.0)
        finally:
            assert server.stop() == 0


def test_a_server_stops_while_a_version_is_loaded(server: ServerProcess) -> None:
    """The last test: it stops the server of the others."""
    number = str(newest(server) + 1)
    loading = threading.Thread(target=lambda: load(server, SOURCE.format(2) + "&waits=true"))
    loading.start()
    eventually(lambda: (number, "LOADING") in index(server))
    assert server.stop() == 0
    loading.join()
