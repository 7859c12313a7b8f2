"""One table of the protocol's behaviour, for every stock client: what they send, and what they make of the answers."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from drivers import Ask, Reply
from PIL import Image
from stock_clients import Client

pytestmark = pytest.mark.torch

ROW = np.linspace(0, 1, 64, dtype="f4").reshape(1, 1, 8, 8)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((np.arange(64, dtype=np.uint8) * 4).reshape(8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def digits(rows: int = 1, **rest: Any) -> Ask:
    data = np.repeat(ROW, rows, axis=0)
    return Ask("digits", [("input", "FP32", list(data.shape), data)], **rest)


def mixed(rows: int = 1, first: float = 1.5, **rest: Any) -> Ask:
    wide, whole = np.full((rows, 3), first, "f4"), np.arange(2 * rows, dtype="i8").reshape(rows, 2)
    half = np.full((rows, 2), 0.25, "f2")
    inputs: list[tuple[str, str, list[int], Any]] = [
        ("wide", "FP32", [rows, 3], wide),
        ("whole", "INT64", [rows, 2], whole),
        ("half", "FP16", [rows, 2], half),
    ]
    return Ask("mixed", inputs, **rest)


def changed(ask: Ask, index: int = 0, **changes: Any) -> Ask:
    names = ("name", "datatype", "shape", "data")
    entry = dict(zip(names, ask.inputs[index], strict=True)) | changes
    ask.inputs[index] = (entry["name"], entry["datatype"], entry["shape"], entry["data"])
    return ask


def test_health(client: Client) -> None:
    assert client.driver.health("digits") == {"live": True, "ready": True, "model": True}


def test_metadata(client: Client) -> None:
    told = client.driver.metadata("digits")
    if told is None:
        pytest.skip("the client has no such call")
    assert told == {
        "server": "sponge",
        "model": "digits",
        "versions": ["1"],
        "inputs": [["input", "FP32", [-1, 1, 8, 8]]],
    }


@pytest.mark.parametrize("binary", [True, False])
def test_numbers_round_trip(client: Client, binary: bool) -> None:
    """All forms of all clients give the same answer."""
    reply = client.infer(digits(2, binary=binary))
    assert reply.error == ""
    datatype, shape, values = reply.outputs["logits"]
    assert (datatype, shape) == ("FP32", [2, 10])
    expected = client.server.infer(
        "digits",
        {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": ROW.ravel().tolist()}]},
    )
    np.testing.assert_allclose(values[:10], expected.json["outputs"][0]["data"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(values[10:], values[:10], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_several_inputs_and_outputs_of_several_datatypes(client: Client, rows: int) -> None:
    reply = client.infer(mixed(rows))
    assert reply.error == ""
    assert {name: (kind, shape) for name, (kind, shape, _) in reply.outputs.items()} == {
        "wide2": ("FP32", [rows, 3]),
        "whole2": ("INT64", [rows, 2]),
        "half2": ("FP16", [rows, 2]),
    }
    assert reply.outputs["wide2"][2] == [3.0] * 3 * rows
    assert reply.outputs["whole2"][2] == [2 * number for number in range(2 * rows)]
    assert reply.outputs["half2"][2] == [0.5] * 2 * rows


def test_bfloat16(client: Client) -> None:
    if client.name.startswith("kserve"):
        pytest.skip("the client knows no BF16")
    raw = (np.array([1.0, -2.0, 0.5, 3.0], "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    reply = client.infer(Ask("brain", [("brain", "BF16", [1, 4], raw)]))
    assert reply.error == ""
    assert reply.outputs["brain2" if "brain2" in reply.outputs else "output"] == ("BF16", [1, 4], [2.0, -4.0, 1.0, 6.0])


def test_only_requested_outputs_are_returned(client: Client) -> None:
    reply = client.infer(mixed(outputs=[("half2", 0), ("wide2", 0)]))
    assert list(reply.outputs) == ["half2", "wide2"]


def test_classification(client: Client) -> None:
    whole = client.infer(digits()).outputs["logits"][2]
    kind, shape, texts = client.infer(digits(outputs=[("logits", 3)])).outputs["logits"]
    assert (kind, shape) == ("BYTES", [1, 3])
    assert [int(text.split(":")[1]) for text in texts] == np.argsort(whole)[::-1][:3].tolist()


def test_an_image_as_bytes(client: Client) -> None:
    raw = client.server.infer("digits", png(), content_type="image/png").json["outputs"][0]["data"]
    reply = client.infer(Ask("digits", [("input", "BYTES", [2], [png(), png()])]))
    assert reply.error == ""
    np.testing.assert_allclose(reply.outputs["logits"][2], raw * 2, rtol=1e-3, atol=1e-4)


def test_the_id_is_returned(client: Client) -> None:
    assert client.infer(digits(id="mine-1")).id == "mine-1"


def test_a_large_batch_is_returned_in_order(client: Client) -> None:
    """Of twice as many rows as fit the largest batch."""
    reply = client.infer(mixed(128))
    assert reply.outputs["whole2"][2] == [2 * number for number in range(256)]


ERRORS: dict[str, tuple[Callable[[], Ask], str, str]] = {
    "unknown model": (lambda: digits(), "not found", "no model"),
    "unknown version": (lambda: digits(version="7"), "not found", "version"),
    "unknown input": (lambda: changed(digits(), name="x"), "invalid", "needs exactly the inputs"),
    "unknown output": (lambda: digits(outputs=[("nope", 0)]), "invalid", "no output nope"),
    "wrong shape": (lambda: changed(digits(), shape=[1, 64], data=ROW.reshape(1, 64)), "invalid", "the model takes"),
    "wrong datatype": (lambda: changed(digits(), datatype="FP64", data=ROW.astype("f8")), "invalid", "takes FP32"),
    "no image": (lambda: Ask("digits", [("input", "BYTES", [1], [b"no image"])]), "invalid", "image"),
    "an input too few": (lambda: Ask("mixed", mixed().inputs[:2]), "invalid", "needs exactly the inputs"),
    "rows that differ": (
        lambda: changed(mixed(2), 1, shape=[1, 2], data=np.zeros((1, 2), "i8")),
        "invalid",
        "same number of rows",
    ),
    "too many rows": (lambda: digits(1025), "invalid", "the most that the model takes"),
    "a bad deadline": (lambda: digits(headers={"x-sponge-slo-ms": "soon"}), "invalid", "x-sponge-slo-ms"),
    "sent too long ago": (
        lambda: digits(headers={"x-sponge-slo-ms": "100", "x-sponge-sent-at": f"{time.time() - 0.5:.3f}"}),
        "unavailable",
        "had passed",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_reach_the_client_with_their_reason(client: Client, case: str) -> None:
    make, kind, words = ERRORS[case]
    ask = make()
    if case == "unknown model":
        ask.model = "nope"
    if client.name == "kserve-rest" and case == "unknown version":
        pytest.skip("the client has no way to name a version")
    reply = client.infer(ask)
    assert (reply.error, words in reply.words) == (kind, True), reply.words


@pytest.mark.parametrize("how", ["timeout", "header"])
def test_a_request_that_can_no_longer_be_in_time_is_refused_with_the_reason(client: Client, how: str) -> None:
    """Behind a batch of 2.5 s; neither client waits for its end."""
    assert client.infer(mixed()).error == ""  # a client's first call is slow
    with ThreadPoolExecutor(1) as pool:
        server = client.server
        blocker = pool.submit(send_slow, server, 2500)
        until = time.monotonic() + 10
        while not server.ask("/control/v1/state").json["threads_running"]:
            assert time.monotonic() < until
            time.sleep(0.01)
        limit: dict[str, Any] = (
            {"timeout_us": 500_000} if how == "timeout" else {"headers": {"x-request-timeout-seconds": "0.5"}}
        )
        reply: Reply = client.infer(mixed(**limit))
        assert not blocker.done()
        assert (reply.error, "can no longer be met" in reply.words) == ("expired", True), reply
        assert blocker.result() == 200


def send_slow(server: Any, milliseconds: float) -> int:
    inputs = [
        {"name": "wide", "datatype": "FP32", "shape": [1, 3], "data": [1000.0 + milliseconds, 0, 0]},
        {"name": "whole", "datatype": "INT64", "shape": [1, 2], "data": [0, 0]},
        {"name": "half", "datatype": "FP16", "shape": [1, 2], "data": [0, 0]},
    ]
    status: int = server.infer("mixed", {"inputs": inputs}).status
    return status
