"""The small client: outputs, deadlines on the wire, and refusals as their own exceptions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from oip_server import OipServer, Reply

from sponge_client.client import SpongeClient
from sponge_client.errors import ExpiredError, InferenceError, ServerError, ShedError, UnreachableError
from sponge_client.oip import Tensor

INPUT = Tensor("x", "FP32", (1, 2), np.zeros((1, 2), "<f4").tobytes())
ANSWER = json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [3.5]}]}).encode()


async def test_an_answer_has_its_outputs_and_timing() -> None:
    async with OipServer(lambda _: Reply(body=ANSWER)) as server, SpongeClient(server.url) as client:
        assert await client.ready("tiny")
        result = await client.infer("tiny", [INPUT], slo_s=2.0, sent_at=1234.5)
    assert result.outputs["y"].tolist() == [[3.5]]
    assert result.server_timing == "queue;dur=1.5"
    assert server.received[0].headers["x-sponge-sent-at"] == "1234.500000"
    assert server.received[0].headers["x-sponge-slo-ms"] == "2000.000"


@pytest.mark.parametrize(
    ("status", "kind"), [(503, ShedError), (504, ExpiredError), (400, InferenceError), (500, InferenceError)]
)
async def test_a_refusal_carries_the_server_s_reason(status: int, kind: type[InferenceError]) -> None:
    reply = Reply(status, json.dumps({"type": "about:blank", "detail": "too late by 12 ms"}).encode())
    async with OipServer(lambda _: reply) as server, SpongeClient(server.url) as client:
        with pytest.raises(kind, match="too late by 12 ms") as caught:
            await client.infer("tiny", [INPUT], slo_s=1.0)
    assert caught.value.status == status


async def test_an_unknown_model_and_a_server_that_is_none() -> None:
    async with OipServer() as server, SpongeClient(server.url) as client:
        with pytest.raises(ServerError, match="no model 'other'"):
            await client.metadata("other")
        assert not await client.ready("other")
    async with SpongeClient(server.url) as client:
        with pytest.raises(UnreachableError, match="cannot reach"):
            await client.metadata("tiny")


async def test_an_answer_that_does_not_come_is_not_waited_for_longer_than_twice_the_slo() -> None:
    async with OipServer(lambda _: Reply(delay_s=30)) as server, SpongeClient(server.url) as client:
        with pytest.raises(UnreachableError, match=r"has not answered within 0\.1 s"):
            await client.infer("tiny", [INPUT], slo_s=0.05)


async def test_an_answer_in_binary_from_a_server_that_writes_header_names_in_lower_case() -> None:
    head = json.dumps(
        {"outputs": [{"name": "y", "datatype": "UINT8", "shape": [3], "parameters": {"binary_data_size": 3}}]}
    )
    reply = Reply(body=head.encode() + b"\xff\x00\x07", headers=f"inference-header-content-length: {len(head)}\r\n")
    async with OipServer(lambda _: reply) as server, SpongeClient(server.url) as client:
        result = await client.infer("tiny", [INPUT], slo_s=1.0)
    assert result.outputs["y"].tolist() == [255, 0, 7]
