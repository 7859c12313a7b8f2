"""A front before two real servers, with the real Envoy: what carries on, and what becomes of each fault."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import grpc
import pytest
from front_kit import FrontProcess, answered, servers
from server_process import Reply, ServerProcess, eventually

from sponge_server.protos import inference_pb2 as pb

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PICK_TIMEOUT_MS = 400
"""Long enough to be seen in a request's time, and shorter than what takes a hung picker out of use."""


@pytest.fixture
def front(pods: list[ServerProcess]) -> Iterator[FrontProcess]:
    with _front(pods) as running:
        yield running


def _front(pods: list[ServerProcess]) -> FrontProcess:
    return FrontProcess(pods, pick_timeout_ms=PICK_TIMEOUT_MS)


def _picks(front: FrontProcess) -> bool:
    """Whether the picker has chosen the pod of one more request."""
    before = front.endings().get("answered", 0)
    assert front.command(0).status == 200
    return front.endings().get("answered", 0) == before + 1


def test_requests_go_where_nothing_waits(pods: list[ServerProcess], front: FrontProcess) -> None:
    busy, idle = pods

    def all_to_idle() -> bool:
        before = answered(idle)
        replies = [front.command(0, x_sponge_slo_ms="400") for _ in range(4)]
        return answered(idle) == before + 4 and [reply.status for reply in replies] == [200] * 4

    def while_the_other_is_busy() -> bool:
        """Whether four requests in a row went to the idle one, once the front had heard of the queue."""
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(busy.command, 4000, x_sponge_slo_ms="30000")]
            eventually(lambda: busy.ask("/control/v1/state").json["threads_running"] == 1)
            waiting += [pool.submit(busy.command, 0, x_sponge_slo_ms="30000") for _ in range(2)]
            found = False
            while not (found or waiting[0].done()):
                found = all_to_idle()
            assert [each.result().status for each in waiting] == [200] * 3
        return found

    # On a machine that is busy for a moment the picker is late, and the proxy goes on in turn.
    eventually(while_the_other_is_busy, 60.0)


def test_every_request_reaches_one_pod_and_is_counted(pods: list[ServerProcess], front: FrontProcess) -> None:
    before = sum(map(answered, pods))
    for _ in range(20):
        assert front.command(0).status == 200
    assert sum(map(answered, pods)) == before + 20
    assert front.endings() == {"answered": 20}


def test_grpc_goes_through(pods: list[ServerProcess], front: FrontProcess) -> None:
    request = pb.ModelInferRequest(
        model_name="m", inputs=[pb.ModelInferRequest.InferInputTensor(name="command", datatype="INT64", shape=[1, 1])]
    )
    request.inputs[0].contents.int64_contents.append(0)
    with grpc.insecure_channel(f"127.0.0.1:{front.grpc}") as channel:
        infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        ready: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        assert pb.ModelInferResponse.FromString(infer(request.SerializeToString(), timeout=30)).model_name == "m"
        assert pb.ServerReadyResponse.FromString(ready(b"", timeout=30)).ready
        with pytest.raises(grpc.RpcError) as refused:
            infer(
                request.SerializeToString(),
                timeout=30,
                metadata=(("x-sponge-sent-at", f"{time.time() - 1.9:.3f}"), ("x-sponge-slo-ms", "1000")),
            )
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert front.endings() == {"answered": 1, "refused": 1}  # ServerReady is no inference


def test_the_time_in_the_front_is_charged(front: FrontProcess) -> None:
    front.picker.send_signal(signal.SIGSTOP)
    reply = front.command(0)
    assert reply.status == 200
    network = next(part for part in reply.headers["server-timing"].split(", ") if part.startswith("network"))
    # Envoy waits and writes the time in whole milliseconds of two clocks.
    assert float(network.partition("dur=")[2]) >= PICK_TIMEOUT_MS - 10
    late = front.command(0, x_sponge_slo_ms=str(PICK_TIMEOUT_MS - 100))
    assert (late.status, late.json["type"]) == (503, "urn:sponge:problem:shed")
    assert "had passed when the request arrived" in late.json["detail"]


def test_what_the_client_says_of_its_send_time_stands(front: FrontProcess) -> None:
    reply = front.command(0, x_sponge_sent_at=f"{time.time() - 1.0:.6f}")
    network = next(part for part in reply.headers["server-timing"].split(", ") if part.startswith("network"))
    assert float(network.partition("dur=")[2]) >= 1000


def test_a_hung_picker_is_left_out(pods: list[ServerProcess], front: FrontProcess) -> None:
    front.picker.send_signal(signal.SIGSTOP)
    before = [answered(pod) for pod in pods]

    def take_turns() -> bool:
        assert front.command(0).status == 200
        return all(answered(pod) > count for pod, count in zip(pods, before, strict=True))

    eventually(take_turns)
    eventually(lambda: front.healthy("picker") == 0)
    assert front.command(0).status == 200
    front.picker.send_signal(signal.SIGCONT)
    eventually(lambda: front.healthy("picker") == 1)
    eventually(lambda: _picks(front))


def test_a_dead_picker_is_done_without_and_comes_back(pods: list[ServerProcess], front: FrontProcess) -> None:
    front.picker.kill()
    before = [answered(pod) for pod in pods]
    assert [front.command(0).status for _ in range(6)] == [200] * 6
    assert all(answered(pod) > count for pod, count in zip(pods, before, strict=True)), "the pods take turns"
    front.picker.wait()
    front.start_picker()
    eventually(front.is_ready)
    eventually(lambda: _picks(front))


def test_a_picker_that_dies_with_requests_under_way_loses_none(front: FrontProcess) -> None:
    with ThreadPoolExecutor(2) as pool:
        under_way = [pool.submit(front.command, 500) for _ in range(2)]
        eventually(lambda: front.metric("sponge_front_pick_seconds_count") == 2)
        front.picker.kill()
        assert [each.result().status for each in under_way] == [200, 200]


def test_a_request_that_its_pod_cannot_meet_is_handed_on(pods: list[ServerProcess], front: FrontProcess) -> None:
    # Without the picker the pods take turns, and one of them is refused at the busy one.
    front.picker.kill()
    busy, idle = pods
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(busy.command, 200, x_sponge_slo_ms="30000") for _ in range(8)]
        eventually(lambda: busy.ask("/control/v1/state").json["queue_length"] >= 4)
        before = answered(idle)
        replies = [front.command(0, x_sponge_slo_ms="150") for _ in range(2)]
        assert [each.result().status for each in waiting] == [200] * 8
    statuses = {reply.status for reply in replies}
    assert statuses <= {200, 503, 504}
    assert answered(idle) >= before + 1


def test_a_pod_that_dies_loses_no_request_to_come(tmp_path: Path) -> None:
    with servers(tmp_path, 2) as pods, _front(pods) as front:
        with ThreadPoolExecutor(4) as pool:
            under_way: list[Future[Reply]] = [pool.submit(front.command, 300) for _ in range(4)]
            eventually(lambda: front.metric("sponge_front_pick_seconds_count") == 4)
            pods[0].process.kill()
            # What the dead pod had begins anew at the other one.
            assert [each.result().status for each in under_way] == [200] * 4
        assert [front.command(0).status for _ in range(20)] == [200] * 20
        eventually(lambda: front.metric("sponge_front_pods_reporting") == 1)


def test_a_pod_that_hangs_is_avoided(tmp_path: Path) -> None:
    with servers(tmp_path, 2) as pods, _front(pods) as front:
        pods[0].process.send_signal(signal.SIGSTOP)
        eventually(lambda: front.metric("sponge_front_pods_reporting") == 1)
        replies: list[Future[Reply]] = []

        def newest_are_answered() -> bool:
            """Those before may have gone to the pod that hangs, while it was not known to."""
            newest = [pool.submit(front.command, 0) for _ in range(4)]
            replies.extend(newest)
            wait(newest, timeout=2.0)
            return all(each.done() and each.result().status == 200 for each in newest)

        with ThreadPoolExecutor(64) as pool:
            eventually(newest_are_answered)
            pods[0].process.send_signal(signal.SIGCONT)
            assert all(each.result().status in (200, 503, 504) for each in replies)


def test_a_pod_that_drains_gets_no_more(tmp_path: Path) -> None:
    with servers(tmp_path, 2, "--drain-delay-s", "3") as pods, _front(pods) as front:
        pods[0].process.send_signal(signal.SIGTERM)
        statuses = [front.command(0).status for _ in range(30)]
        assert statuses == [200] * 30
