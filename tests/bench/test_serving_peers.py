"""The peers of the serving benchmark as they are defined: nothing is installed or started here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bench.serving.shared import Outputs
from bench.serving.systems import SYSTEMS
from bench.serving.systems.interface import Knobs, System
from bench.serving.workloads import WORKLOADS, Served

PEERS = [
    kind(Served(WORKLOADS[workload], "onnx"))
    for workload, systems in SYSTEMS.items()
    for kind in systems.values()
    if kind.packages
]
TRIES = 8
PYTHON = Path("/somewhere/bin/python")
PORT = 18_080
CORES = 1.5

pytestmark = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.name}-{peer.workload.name}")


def configurations(peer: System) -> list[Knobs]:
    return [peer.defaults, *peer.candidates(CORES)]


def test_every_peer_gets_as_many_tries_and_none_twice(peer: System) -> None:
    tries = [json.dumps(knobs, sort_keys=True) for knobs in peer.candidates(CORES)]
    assert len(tries) == len(set(tries)) == TRIES


def test_knobs_are_plain_json_and_every_configuration_sets_the_same_ones(peer: System) -> None:
    for knobs in configurations(peer):
        assert json.loads(json.dumps(knobs)) == knobs
        assert knobs.keys() == peer.defaults.keys()


def test_every_package_is_of_one_version(peer: System) -> None:
    assert all(package.count("==") == 1 and package.partition("==")[2] for package in peer.packages)


def test_the_command_runs_what_the_environment_holds_and_carries_the_port_and_every_knob(peer: System) -> None:
    for knobs in configurations(peer):
        launch = peer.launch(PYTHON, PORT, knobs, CORES)
        assert Path(launch.argv[0]).parent == PYTHON.parent
        assert all(isinstance(word, str) and word for word in launch.argv)
        assert all(isinstance(text, str) for pair in (*launch.env.items(), *launch.files.items()) for text in pair)
        assert not any(Path(name).is_absolute() or ".." in Path(name).parts for name in launch.files)
        said = " ".join((*launch.argv, *launch.env.values(), *launch.files.values()))
        assert str(PORT) in said


def test_no_knob_is_without_effect_on_the_command_and_the_requests(peer: System) -> None:
    def seen(knobs: Knobs) -> str:
        return repr((peer.launch(PYTHON, PORT, knobs, CORES), peer.request(peer.workload.bodies()[0], 0.3, knobs)))

    for knobs in configurations(peer):
        for name, value in knobs.items():
            others = (f"{value}0",) if isinstance(value, str) else (value + 1, value + 64, *(1 - value,) * (value < 2))
            assert any(seen({**knobs, name: other}) != seen(knobs) for other in others), name


def test_a_request_brings_the_whole_tensor_and_is_small_beside_it(peer: System) -> None:
    body = peer.workload.bodies()[-1]
    for knobs in configurations(peer):
        wire = peer.request(body, 0.3, knobs)
        assert 0.7 * len(body) <= sum(map(len, wire.body)) < 1.4 * len(body)
        assert wire.method == "POST"
        assert not {"host", "content-length"} & {name.lower() for name in wire.headers}


def test_no_two_deadlines_make_two_copies_of_the_tensor(peer: System) -> None:
    body = peer.workload.bodies()[-1]
    for knobs in configurations(peer):
        one, other = (max(peer.request(body, slo_s, knobs).body, key=len) for slo_s in (0.3, 1.0))
        assert one is other


class TestAnswers:
    """What each peer's answer holds is the logits, bit by bit."""

    logits = np.linspace(-3, 3, 1000, dtype="<f4")

    def test_the_answer_that_the_servers_give_is_read(self, peer: System) -> None:
        headers, body = answer_of(peer, self.logits)
        np.testing.assert_array_equal(peer.outputs(headers, body), self.logits)

    def test_another_answer_is_a_value_error_or_other_logits(self, peer: System) -> None:
        headers, _ = answer_of(peer, self.logits)
        try:
            found = peer.outputs(headers, b"[]")
        except ValueError:
            return
        assert found.shape != self.logits.shape


def answer_of(peer: System, logits: Outputs) -> tuple[dict[str, str], bytes]:
    from base64 import b64encode

    raw = logits.tobytes()
    text = b64encode(raw).decode()
    if peer.name == "triton":
        output: dict[str, object] = {
            "name": "output",
            "datatype": "FP32",
            "shape": [1, 1000],
            "parameters": {"binary_data_size": 4000},
        }
        head = json.dumps({"model_name": "resnet18", "model_version": "1", "outputs": [output]}).encode()
        return {"inference-header-content-length": str(len(head))}, head + raw
    if peer.name == "mlserver":
        output = {"name": "output", "datatype": "BYTES", "shape": [1, 1], "data": [text]}
        return {}, json.dumps({"model_name": "resnet18", "outputs": [output]}).encode()
    if peer.name == "bentoml":
        return {"content-type": "application/json"}, json.dumps([text]).encode()
    if peer.name == "infinity":
        return {}, json.dumps({"data": [{"object": "embedding", "embedding": text}]}).encode()
    return {}, raw
