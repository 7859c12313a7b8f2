"""Clients of a real server over both protocols: quotas, clocks that are off, and a full queue."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from server_process import ServerProcess, command_body, eventually

from sponge_server.protos import inference_pb2 as pb

pytestmark = pytest.mark.torch

OPTIONS = ("--model", "m=python://commanded_model:factory", "--slo-ms", "20000", "--cores", "1")

Answer = tuple[int | str, dict[str, str], str]
"""Status, headers or trailing metadata, and the text of the error."""
Ask = Callable[..., Answer]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    limits = ("--quota-rows-per-s", "0.5", "--quota-burst-rows", "3", "--client-header", "X-Client")
    server = ServerProcess(tmp_path_factory.mktemp("clients"), *OPTIONS, "--max-queue-rows", "4", *limits)
    yield server
    assert server.stop() == 0


def over_rest(server: ServerProcess, command: int, rows: int = 1, **headers: str) -> Answer:
    document = command_body(command)
    document["inputs"][0] |= {"shape": [rows, 1], "data": [command] * rows}
    reply = server.infer("m", document, **headers)
    return reply.status, dict(reply.headers), "" if reply.status == 200 else reply.json["detail"]


def over_grpc(server: ServerProcess, command: int, rows: int = 1, **headers: str) -> Answer:
    given = {
        "name": "command",
        "datatype": "INT64",
        "shape": [rows, 1],
        "contents": {"int64_contents": [command] * rows},
    }
    message = pb.ModelInferRequest(model_name="m", inputs=[given])
    metadata = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    with grpc.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        try:
            infer(message, timeout=30, metadata=metadata)
        except grpc.RpcError as error:
            trailing = {item.key: str(item.value) for item in error.trailing_metadata()}
            return error.code().name, trailing, error.details() or ""
    return 200, {}, ""


@pytest.fixture(params=[over_rest, over_grpc], ids=["rest", "grpc"])
def ask(request: pytest.FixtureRequest, server: ServerProcess) -> Ask:
    protocol: Ask = request.param
    return lambda command, rows=1, **headers: protocol(server, command, rows, **headers)


OVER = {429: "retry-after", "RESOURCE_EXHAUSTED": "grpc-retry-pushback-ms"}


def test_a_client_beyond_its_quota_is_told_when_to_come_back_and_others_are_not_touched(
    ask: Ask, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    assert [ask(0, x_client=name)[0] for _ in range(3)] == [200] * 3
    status, more, text = ask(0, x_client=name)
    assert status in OVER
    assert int(more[OVER[status]]) in (1, 2, 1000, 2000)
    assert "0.5 rows per second" in text
    assert ask(0, x_client=f"another {name}")[0] == 200


def test_each_row_counts(ask: Ask, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    assert ask(0, rows=4, x_client=name)[0] == 200
    assert ask(0, x_client=name)[0] in OVER


def test_without_the_header_the_address_is_the_client(server: ServerProcess) -> None:
    statuses = [over_rest(server, 0)[0] for _ in range(4)]
    assert statuses.count(429) >= 1
    assert server.metric('sponge_problems_total{status="429"}') >= 1


@pytest.mark.parametrize("offset_s", [-60, -2, 2.5, 5, 60])
def test_a_phone_whose_clock_is_off_is_served(
    ask: Ask, server: ServerProcess, request: pytest.FixtureRequest, offset_s: float
) -> None:
    """`offset_s` behind the server's clock; ahead if negative."""
    counted = "sponge_sent_at_corrected_total" if offset_s > 0 else 'sponge_sent_at_ignored_total{reason="future"}'
    before = server.metric(counted)
    for _ in range(3):
        sent_at = f"{time.time() - offset_s:.3f}"
        assert ask(0, x_client=request.node.name, x_sponge_slo_ms="1000", x_sponge_sent_at=sent_at)[0] == 200
    assert server.metric(counted) == before + 3


def test_a_clock_a_second_behind_is_learnt_on_its_connection(server: ServerProcess) -> None:
    connection = http.client.HTTPConnection(server.data.removeprefix("http://"), timeout=20)
    statuses = []
    for number in range(12):
        headers = {
            "x-client": f"shared {number // 3}",  # too few requests of each to learn from
            "x-sponge-slo-ms": "1000",
            "x-sponge-sent-at": f"{time.time() - 1.2:.3f}",
        }
        connection.request("POST", "/v2/models/m/infer", json.dumps(command_body(0)), headers)
        reply = connection.getresponse()
        reply.read()
        statuses.append(reply.status)
    connection.close()
    assert statuses == [503] * 7 + [200] * 5


def test_an_urgent_request_finds_room_in_a_queue_full_of_patient_ones(ask: Ask, server: ServerProcess) -> None:
    def patient(number: int, takes_ms: int = 300) -> Answer:
        return over_rest(server, takes_ms, x_client=f"p{number} {time.time()}", x_sponge_slo_ms="60000")

    before = server.metric('sponge_queue_displaced_total{model="m"}')
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(patient, 0, 3000)]
        eventually(lambda: server.metric("sponge_lanes_running") == 1)
        # One after the other: of two that arrive out of turn, the first to be sent would take the other one's place.
        for waiting in range(1, 5):
            answers.append(pool.submit(patient, waiting))
            eventually(lambda: server.metric('sponge_queue_length{model="m"}') == waiting)  # noqa: B023 - called at once
        answers += [pool.submit(patient, number) for number in range(5, 16)]
        eventually(lambda: any(answer.done() for answer in answers))  # the queue has been full
        urgent = ask(0, x_client=f"urgent {time.time()}", x_sponge_slo_ms="15000")
        refused = [answer.result() for answer in answers if answer.result()[0] == 503]
    assert urgent[0] == 200
    assert all("rows wait" in text or "took this one's place" in text for _, _, text in refused)
    assert server.metric('sponge_queue_displaced_total{model="m"}') - before <= 1
