"""A short, fixed part of the fuzzing benchmark: malformed requests of every kind, which the server survives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from bench.fuzz import fuzz
from bench.fuzzing.amplified import amplified
from bench.fuzzing.exchange import Addresses
from bench.fuzzing.hostile import HostileClients
from bench.fuzzing.http import Target, malformed_request
from bench.fuzzing.rpc import malformed_call
from server_process import ServerProcess

REQUESTS, SEED = 400, 7


@pytest.mark.torch
async def test_malformed_requests_do_not_break_the_server(tmp_path: Path) -> None:
    options = ("--slo-ms", "500", "--header-timeout-s", "2", "--max-body-bytes", str(4 << 20))
    server = ServerProcess(tmp_path, "--model", "digits=python://digits_shaped:factory", *options)
    lanes = len(server.ask("/control/v1/state").json["lanes"])
    findings = await fuzz(
        Addresses(server.data.removeprefix("http://"), server.grpc), REQUESTS, SEED, lambda _: None, lambda: None
    )
    assert findings.failures == []
    assert sum(findings.sent.values()) == REQUESTS
    assert set(findings.sent) == {"wire", "grpc", "schema", "amplified"}
    assert findings.good >= 2 * REQUESTS // 50
    assert len(server.ask("/control/v1/state").json["lanes"]) == lanes
    assert server.metric('sponge_lane_crashes_total{model="digits"}') == 0
    assert server.stop() == 0


@pytest.mark.torch
def test_hostile_connections_do_not_keep_others_out(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, "--model", "digits=python://digits_shaped:factory", "--slo-ms", "20000")
    lanes = len(server.ask("/control/v1/state").json["lanes"])
    addresses = Addresses(server.data.removeprefix("http://"), server.grpc)
    good = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}]}
    with HostileClients(addresses, 40, 100.0, SEED) as hostile:
        assert [server.infer("digits", good).status for _ in range(30)] == [200] * 30
    assert hostile.sent > 0
    assert len(server.ask("/control/v1/state").json["lanes"]) == lanes
    assert server.metric('sponge_lane_crashes_total{model="digits"}') == 0
    assert server.stop() == 0


def test_a_seed_makes_the_same_requests() -> None:
    target = Target("digits", "input", (1, 1, 8, 8), "logits", b"\x89PNG" + bytes(60))

    def made(seed: int) -> list[object]:
        rng = random.Random(seed)
        makers = (malformed_request, malformed_call, amplified)
        return [make(rng, target) for make in makers for _ in range(50)]

    assert made(3) == made(3)
    assert made(3) != made(4)
