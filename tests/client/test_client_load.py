"""The load generator against a real HTTP server: punctual, paced, and every request accounted for."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from oip_server import METADATA, OipServer, Received, Reply

from sponge_client.errors import LoadError, ServerError, UnreachableError
from sponge_client.load import LoadRun, LoadSpec, prepare
from sponge_client.oip import InferBody
from sponge_client.outcomes import RequestRecord, summarize
from sponge_client.schedule import Schedule, Shot, make_schedule
from sponge_workload.bandwidth import BandwidthTrace

BODY = InferBody(b'{"inputs":[]}' + bytes(100_000), 13)


def schedule(*times: float, slo_s: float = 0.2) -> Schedule:
    return make_schedule(times, duration_s=max(times) + 0.01, slo_s=slo_s, bodies=1, seed=1)


async def run(server: OipServer, plan: Schedule, timeout_s: float = 0.3, link: BandwidthTrace | None = None) -> LoadRun:
    load = LoadRun(server.url, "tiny", plan, [BODY], link, timeout_s)
    await load.run()
    return load


async def test_every_outcome_has_its_own_count() -> None:
    replies = itertools.cycle(
        [
            Reply(200),
            Reply(200, delay_s=0.25),
            Reply(503),
            Reply(504),
            Reply(500),
            Reply(200, delay_s=30),
            Reply(cut=True),
        ]
    )
    async with OipServer(lambda _: next(replies)) as server:
        load = await run(server, schedule(*(0.03 * i for i in range(7))))
    summary = summarize(load.records, load.duration_s)
    assert summary.sent == 7
    assert (summary.in_time, summary.late, summary.shed, summary.expired) == (1, 1, 1, 1)
    assert (summary.cancelled, summary.error) == (1, 2)
    assert summary.attainment == pytest.approx(1 / 7)
    by_index = {record.index: record for record in load.records}
    assert by_index[0].server_timing == "queue;dur=1.5"
    assert by_index[1].latency_s == pytest.approx(0.25, abs=0.1)


async def test_each_request_says_when_it_was_due_and_for_how_long() -> None:
    before = time.time()
    async with OipServer() as server:
        load = await run(server, schedule(0.0, 0.05, slo_s=0.75))
    sent = [float(request.headers["x-sponge-sent-at"]) for request in server.received]
    assert [request.headers["x-sponge-slo-ms"] for request in server.received] == ["750.000"] * 2
    assert sent[1] - sent[0] == pytest.approx(0.05, abs=1e-5)
    assert sent[0] == pytest.approx(load.started_at, abs=1e-5)
    assert before < sent[0] < time.time()
    assert server.received[0].headers["inference-header-content-length"] == "13"
    assert server.received[0].body == BODY.data


async def test_a_slow_server_does_not_slow_the_sender() -> None:
    async with OipServer(lambda _: Reply(delay_s=0.4)) as server:
        load = await run(server, schedule(*(0.01 * i for i in range(20)), slo_s=1.0), timeout_s=1.0)
    spans = server.received[-1].first_byte - server.received[0].first_byte
    assert spans == pytest.approx(0.19, abs=0.1)
    assert len(load.records) == 20
    assert min(record.latency_s for record in load.records) > 0.39


async def test_an_upload_takes_what_the_link_gives_and_headers_go_first() -> None:
    link = BandwidthTrace("two speeds", (500_000.0, 1_000_000.0), (0.1, 10.0))
    async with OipServer() as server:
        load = await run(server, schedule(0.0, slo_s=1.0), timeout_s=1.0, link=link)
    request = server.received[0]
    # 50,000 bytes in the first 100 ms, the other 50,013 in 50 ms.
    assert load.records[0].upload_s == pytest.approx(0.150, abs=0.001)
    arrived = [(at - request.first_byte, size) for at, size in request.arrivals]
    assert arrived[0][1] < 20_000
    assert arrived[-1][0] == pytest.approx(0.150, abs=0.03)
    assert arrived[-1][1] == len(BODY.data)
    assert all(size <= link.carried(at + 0.01) + 1 for at, size in arrived)


async def test_an_early_answer_ends_the_upload() -> None:
    link = BandwidthTrace("slow", (10_000.0,), (1.0,))
    async with OipServer(early=Reply(503)) as server:
        load = await run(server, schedule(0.0, 0.1, slo_s=5.0), timeout_s=5.0, link=link)
    assert [record.outcome for record in load.records] == ["shed", "shed"]
    assert max(record.latency_s for record in load.records) < 1.0
    assert server.connections == 2


async def test_records_are_handed_out_as_they_come() -> None:
    seen: list[RequestRecord] = []
    async with OipServer() as server:
        load = LoadRun(server.url, "tiny", schedule(0.0, 0.02), [BODY], on_record=seen.append)
        await load.run()
    assert seen == load.records


@pytest.mark.parametrize(("reuse", "connections"), [(True, 1), (False, 3)])
async def test_each_request_may_have_a_connection_of_its_own(reuse: bool, connections: int) -> None:
    async with OipServer() as server:
        load = LoadRun(server.url, "tiny", schedule(0.0, 0.4, 0.8, slo_s=5.0), [BODY], reuse=reuse)
        await load.run()
        assert server.connections == connections
    assert load.counts == {"in_time": 3}


async def test_stopping_sends_no_more_and_waits_for_what_was_sent() -> None:
    async with OipServer(lambda _: Reply(delay_s=0.2)) as server:
        load = LoadRun(server.url, "tiny", schedule(0.0, 0.05, 5.0, slo_s=1.0), [BODY], timeout_s=1.0)
        running = asyncio.create_task(load.run())
        await server.has_received(2)
        load.stop()
        await asyncio.wait_for(running, 2.0)
    assert [record.outcome for record in load.records] == ["in_time", "in_time"]
    assert load.duration_s < 2.0


async def test_abandoning_accounts_for_what_is_open() -> None:
    async with OipServer(lambda _: Reply(delay_s=30)) as server:
        load = LoadRun(server.url, "tiny", schedule(0.0, 0.05, 5.0, slo_s=60.0), [BODY], timeout_s=60.0)
        running = asyncio.create_task(load.run())
        await server.has_received(2)
        load.abandon()
        await asyncio.wait_for(running, 2.0)
    assert load.counts == {"cancelled": 2}


async def test_a_server_that_goes_away_leaves_errors_and_no_exception() -> None:
    async with OipServer() as server:
        plan = schedule(0.0)
    load = await run(server, plan)
    assert load.counts == {"error": 1}


def spec(url: str, model: str = "tiny") -> LoadSpec:
    return LoadSpec(url, model, (0.0, 0.02), 0.05, 0.2, payload_bytes=None)


async def test_prepare_asks_the_server_what_the_model_takes() -> None:
    async with OipServer() as server:
        load = await prepare(spec(server.url))
        await load.run()
    assert load.counts == {"in_time": 2}
    assert all(b'"name":"x"' in request.body for request in server.received)


@pytest.mark.parametrize(("takes_images", "datatype"), [(True, b"BYTES"), (False, b"FP32")])
async def test_prepare_finds_out_by_a_request_whether_images_are_taken(takes_images: bool, datatype: bytes) -> None:
    def reply(request: Received) -> Reply:
        return Reply(200 if takes_images or b"FP32" in request.body else 422)

    pixels = {**METADATA, "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]}
    async with OipServer(reply, pixels) as server:
        load = await prepare(spec(server.url))
        await load.run()
    assert load.counts == {"in_time": 2}
    assert all(datatype in request.body for request in server.received[-3:])


async def test_prepare_says_what_is_wrong() -> None:
    async with OipServer() as server:
        with pytest.raises(ServerError, match="has no model 'other'"):
            await prepare(spec(server.url, "other"))
    async with OipServer(lambda _: Reply(400, b'{"detail": "no such input"}')) as server:
        with pytest.raises(ServerError, match="no such input"):
            await prepare(spec(server.url))
    with pytest.raises(UnreachableError, match=r"cannot reach .*: start a server with 'sponge serve'"):
        await prepare(spec(server.url))
    with pytest.raises(LoadError, match="give an address"):
        await prepare(spec("localhost:80"))


def test_a_schedule_is_the_same_for_the_same_seed() -> None:
    first = make_schedule((0.1, 0.2, 0.9), 0.5, 1.0, 4, seed=7)
    assert first == make_schedule((0.1, 0.2, 0.9), 0.5, 1.0, 4, seed=7)
    assert [shot.at_s for shot in first.shots] == [0.1, 0.2]
    assert all(isinstance(shot, Shot) and 0 <= shot.body < 4 for shot in first.shots)


async def test_an_empty_run_has_figures() -> None:
    summary = summarize([], 1.0)
    assert (summary.sent, summary.attainment, summary.p99_ms) == (0, 1.0, None)
