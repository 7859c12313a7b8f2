"""Shutdown of a real server under load: every accepted request is answered, over REST and gRPC, and it exits with 0."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from server_process import ServerProcess, command_body, eventually
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.torch

MODEL = ("--model", "m=python://commanded_model:factory", "--max-batch", "2", "--slo-ms", "30000", "--cores", "1")
HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def waiting(server: ServerProcess) -> int:
    state = server.ask("/control/v1/state").json
    return int(state["queue_length"] + state["threads_running"])


def over_grpc(server: ServerProcess, command: int) -> int:
    with triton.InferenceServerClient(server.grpc) as client:
        given = triton.InferInput("command", [1, 1], "INT64")
        given.set_data_from_numpy(np.array([[command]]))
        return int(client.infer("m", [given]).get_response().outputs[0].shape[0])


def test_running_queued_and_uploading_requests_are_answered(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    server = ServerProcess(tmp_path, *MODEL)
    rest = [pool.submit(server.command, 400) for _ in range(4)]
    grpc = [pool.submit(over_grpc, server, 400) for _ in range(2)]
    eventually(lambda: waiting(server) >= 5)
    body = json.dumps(command_body(7)).encode()
    uploading = socket.create_connection(("127.0.0.1", int(server.data.rpartition(":")[2])))
    uploading.sendall(HEAD + f"content-length: {len(body)}\r\n\r\n".encode() + body[:10])
    eventually(lambda: server.ask("/control/v1/state").json["uploads_in_flight"] == 1)
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: server.ask("/readyz").status == 503)
    uploading.sendall(body[10:])
    answer = http.client.HTTPResponse(uploading)
    answer.begin()
    assert (answer.status, json.loads(answer.read())["outputs"][0]["data"]) == (200, [7])
    assert answer.getheader("connection") == "close"
    assert [reply.result().status for reply in rest] == [200] * 4
    assert [rows.result() for rows in grpc] == [1, 1]
    assert server.process.wait(timeout=20) == 0


def test_under_load_no_accepted_request_is_lost(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Clients that send on: each gets an answer, a refusal, or is not connected at all; none is cut off."""
    server = ServerProcess(tmp_path, *MODEL, "--drain-delay-s", "0.5")
    host, port = server.data.removeprefix("http://").split(":")

    def send_on() -> list[int]:
        statuses: list[int] = []
        while True:
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            try:
                connection.connect()
            except (ConnectionRefusedError, ConnectionResetError):  # reset: the port closed while it connected
                return statuses
            body = json.dumps(command_body(20))
            try:
                connection.request("POST", "/v2/models/m/infer", body, {"content-type": "application/json"})
                statuses.append(connection.getresponse().status)
            except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected):
                statuses.append(0)  # was in the kernel's backlog when the port closed: never accepted
                return statuses
            finally:
                connection.close()

    def call_on() -> list[str]:
        """On one channel, until it is refused."""
        statuses: list[str] = []
        given = triton.InferInput("command", [1, 1], "INT64")
        given.set_data_from_numpy(np.array([[20]]))
        with triton.InferenceServerClient(server.grpc) as client:
            while not statuses or statuses[-1] == "OK":
                try:
                    client.infer("m", [given])
                    statuses.append("OK")
                except InferenceServerException as error:
                    statuses.append(str(error.status()))
        return statuses

    clients = [pool.submit(send_on) for _ in range(8)]
    callers = [pool.submit(call_on) for _ in range(4)]
    eventually(lambda: waiting(server) > 0)
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: server.ask("/readyz").status == 503)
    served = server.command(0)
    assert (served.status, served.headers["connection"]) == (200, "close")
    assert server.get("/v2/health/ready").status == 503
    answers = [client.result() for client in clients]
    assert server.process.wait(timeout=20) == 0
    assert {status for statuses in answers for status in statuses} <= {200, 503, 0}
    for statuses in answers:
        assert 0 not in statuses[:-1]
        assert statuses == sorted(statuses, key=lambda status: (status == 0, status))  # never 200 after a refusal
    for called in callers:
        outcomes = called.result()
        assert len(outcomes) > 1
        assert outcomes[-1] == "StatusCode.UNAVAILABLE"
    events = [json.loads(line) for line in server.errors.read_text().splitlines()]
    (end,) = [line for line in events if line["event"] == "drain.end"]
    assert (end["unanswered"], end["uploads"]) == (0, 0)


def test_a_second_signal_ends_at_once(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    server = ServerProcess(tmp_path, *MODEL, "--drain-delay-s", "60")
    stuck = pool.submit(server.command, 20_000)
    eventually(lambda: waiting(server) == 1)
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: server.ask("/readyz").status == 503)
    began = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=20) == 0
    assert time.monotonic() - began < 10
    assert (stuck.result().status, "stopped" in stuck.result().json["detail"]) == (500, True)
