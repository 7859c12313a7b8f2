"""What the comparison of cluster and simulator rests on: the same requests, and what a server's log says of batches."""

from __future__ import annotations

import json
import os

import pytest
from bench.fidelity import Evidence, MeasuredBatches, SteadyScenario, batch_times, due_at, pooled, replay

from sponge_client.load import CHUNK_BYTES
from sponge_core.dispatch.decision import Launch
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_demo.scenario import uplink_of
from sponge_demo.virtual import LEAD_S, SeenUploads, virtual_requests
from sponge_workload.arrivals import poisson_arrivals

SCENARIO = SteadyScenario(10.0)
TRACE, FROM_S = uplink_of(SCENARIO, os.environ)
UPLINK = TRACE.starting_at(FROM_S)
REQUESTS = virtual_requests(SCENARIO, due_at(SCENARIO), UPLINK)
PROFILE = LatencyModel(gamma=0.02, delta=0.0, epsilon=0.01, eta=0.01)
SEEN = Evidence({1: (0.03, 0.034), 4: (0.08,)}, (0.03, 0.05), 0.02)


def launch(rows: int) -> Launch:
    return Launch(tuple(Request(i, 0.0, 9.0, 0.0) for i in range(rows)), 1, 1.0)


def test_virtual_requests_are_those_that_the_load_sends() -> None:
    sent = [at for at in poisson_arrivals(SCENARIO.rate_rps, SCENARIO.duration_s, SCENARIO.seed) if at < 10.0]
    requests = REQUESTS
    assert sorted(request.sent - LEAD_S for request in requests) == pytest.approx(sent)
    assert [request.arrival for request in requests] == sorted(request.arrival for request in requests)
    for request in requests:
        upload_s = UPLINK.upload_s(request.sent - LEAD_S, SCENARIO.payload_bytes)
        assert request.arrival - request.sent == pytest.approx(upload_s)
        assert request.deadline - request.sent == pytest.approx(SCENARIO.slo_s)


def test_a_servers_log_gives_batch_times_by_size() -> None:
    lines = [
        {"event": "batch.done", "rows": 2, "threads": 1, "cpu_ms": 40.0},
        {"event": "batch.done", "rows": 1, "threads": 1, "cpu_ms": 25.0},
        {"event": "batch.done", "rows": 1, "threads": 2, "cpu_ms": 30.0},
        {"event": "model.loaded"},
        {"event": "batch.done", "rows": 1, "threads": 1, "cpu_ms": 24.0},
    ]
    times = batch_times("\n".join(map(json.dumps, lines)))
    assert times == {1: (0.025, 0.024), 2: (0.04,)}
    both = pooled([Evidence(times, (0.1,), 0.02), Evidence({1: (0.026,)}, (0.2,), 0.04)])
    assert (both.batches_s[1], both.resizes_s, both.overhead_cores) == ((0.025, 0.024, 0.026), (0.1, 0.2), 0.03)


def test_batches_take_what_was_seen_and_the_server_learns_it() -> None:
    batches = MeasuredBatches(PROFILE, SEEN, seed=1)
    assert {round(batches.takes_s(launch(1)), 6) for _ in range(20)} == {0.03, 0.034}
    # Of three rows nothing was seen: as far off as four are.
    assert batches.takes_s(launch(3)) == pytest.approx(PROFILE.latency(3, 1) * 0.08 / PROFILE.latency(4, 1))
    model = PROFILE
    for _ in range(200):
        model = batches.learn(launch(4), 0.08)
    assert model.latency(4, 1) == pytest.approx(0.08, rel=0.05)


def test_an_upload_is_expected_to_go_on_as_the_pieces_came_that_were_read() -> None:
    uploads = SeenUploads(UPLINK, SCENARIO.payload_bytes)
    request = REQUESTS[0]
    whole_s = request.arrival - request.sent
    late = request.sent + 0.9 * whole_s
    assert uploads.left_s(request, late, late) == pytest.approx(request.arrival - late, rel=0.6)
    # The first pieces say least, and what was not read yet makes the link look slower than it is.
    early = request.sent + 2.5 * CHUNK_BYTES / SCENARIO.payload_bytes * whole_s
    assert uploads.left_s(request, early, early) > request.arrival - early
    assert uploads.left_s(request, early, early + 0.05) > uploads.left_s(request, early, early)


def test_a_replay_repeats_itself() -> None:
    told = replay(SCENARIO, "simulator, told", "sponge-deployed", PROFILE, SEEN)
    assert told == replay(SCENARIO, "simulator, told", "sponge-deployed", PROFILE, SEEN)
    assert told.sent == told.in_time + told.late + told.refused == len(REQUESTS)
    assert told.steps[0][0] == 0.0
    assert told.steps[-1][0] == SCENARIO.duration_s
    assert SCENARIO.min_milli / 1000 <= told.mean_cores <= SCENARIO.max_milli / 1000
