"""The load generator against a real small server: what is sent, what is right, and when it hangs up."""

from __future__ import annotations

import numpy as np
import pytest
from bench.serving.outcomes import outcome_of
from bench.serving.sender import ClosedLoop, Job, run_job
from bench.serving.workloads import Workload
from fake_system import FakeServer, FakeSystem, logits_of

from sponge_client.schedule import Shot


@pytest.fixture(autouse=True)
def _reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workload, "reference", lambda _: np.stack([logits_of(number) for number in range(8)]))


def job(port: int, *shots: Shot, hang_up_s: float = 5.0, closed: ClosedLoop | None = None) -> Job:
    return Job("resnet18", "fake", {}, port, hang_up_s, shots, closed)


async def test_each_answer_is_checked_against_its_own_input() -> None:
    shots = [Shot(i, i * 0.01, 10.0, body) for i, body in enumerate((0, 3, 5, 3))]
    async with FakeServer(lambda number, _: (200, logits_of(number if number != 5 else 0).tobytes(), 0.0)) as server:
        answers = await run_job(job(server.port, *shots), FakeSystem())
    assert [answer.right for answer in answers] == [True, True, False, True]
    assert [answer.at_s for answer in answers] == [shot.at_s for shot in shots]


async def test_an_answer_of_another_size_is_wrong_and_no_crash() -> None:
    async with FakeServer(lambda *_: (200, b"odd", 0.0)) as server:
        (answer,) = await run_job(job(server.port, Shot(0, 0.0, 10.0, 0)), FakeSystem())
    assert outcome_of(answer, {503}) == "error"


async def test_a_slow_answer_does_not_hold_the_next_request_back() -> None:
    """The second is sent and answered while the first, due earlier, still waits."""
    shots = (Shot(0, 0.0, 20.0, 0), Shot(1, 0.01, 19.0, 1))
    async with FakeServer(lambda number, _: (200, logits_of(number).tobytes(), 0.5 * (1 - number))) as server:
        slow, quick = await run_job(job(server.port, *shots), FakeSystem())
    assert slow.right
    assert quick.right
    assert quick.latency_s < slow.latency_s


async def test_a_client_hangs_up_some_time_after_its_deadline() -> None:
    async with FakeServer(lambda *_: (200, b"", 60.0)) as server:
        (answer,) = await run_job(job(server.port, Shot(0, 0.0, 0.05, 0), hang_up_s=0.1), FakeSystem())
    assert outcome_of(answer, set()) == "client_timeout"
    assert answer.latency_s >= 0.15


async def test_refusals_and_a_server_that_is_gone() -> None:
    async with FakeServer(lambda *_: (503, b"busy", 0.0)) as server:
        (refused,) = await run_job(job(server.port, Shot(0, 0.0, 10.0, 0)), FakeSystem())
    (lost,) = await run_job(job(server.port, Shot(0, 0.0, 10.0, 0)), FakeSystem())
    assert [outcome_of(answer, {503}) for answer in (refused, lost)] == ["shed", "error"]


async def test_a_closed_loop_waits_for_its_answers() -> None:
    async with FakeServer(lambda number, _: (200, logits_of(number).tobytes(), 0.02)) as server:
        answers = await run_job(job(server.port, closed=ClosedLoop(2, 0.2, 10.0)), FakeSystem())
    assert 2 <= len(answers) <= 22
    assert all(answer.right for answer in answers)


def test_a_job_survives_the_way_to_its_process() -> None:
    sent = Job("resnet18", "fake", {"size": 2}, 8080, 1.0, (Shot(0, 0.5, 0.3, 7),))
    assert Job.parse(sent.as_json()) == sent
    closed = job(1, closed=ClosedLoop(2, 0.2, 10.0))
    assert Job.parse(closed.as_json()) == closed
