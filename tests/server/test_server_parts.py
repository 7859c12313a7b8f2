"""Small parts: settings, uploads, body memory, latency window, CPU quota, problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from sponge_core.cpu_sharing import thread_budget
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.observability.request_stats import LatencyWindow
from sponge_server.protocol.problems import ProblemError, retry_after
from sponge_server.settings import ServerSettings, sizes_milli
from sponge_server.uploads import Upload, Uploads


def settings(**changes: Any) -> ServerSettings:
    return ServerSettings(model={"m": "digits://"}, **changes)


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, (1000, 2000)),
        ({"min_cores": 2.0}, (2000,)),
        ({"min_cores": 0.5, "step_cores": 0.5}, (500, 1000, 1500, 2000)),
        ({"min_cores": 0.5, "step_cores": 1.0}, (500, 1500, 2000)),
        ({"min_cores": 0.125, "cores": 0.125, "max_cores": 0.25, "step_cores": 0.125}, (125, 250)),
    ],
)
def test_the_sizes_of_the_frontier(changes: dict[str, Any], sizes: tuple[int, ...]) -> None:
    assert settings(**changes).candidates_milli == sizes


def test_a_range_below_its_minimum_leaves_the_largest_size() -> None:
    assert sizes_milli(2000, 1000, 500) == (1000,)


@pytest.mark.parametrize(
    ("cores", "max_cores", "lanes"), [(0.5, 0.5, 1), (2.0, 2.0, 2), (0.5, 2.5, 3), (4.0, 2.0, 4), (64.0, 64.0, 16)]
)
def test_one_lane_for_every_thread_that_can_run(cores: float, max_cores: float, lanes: int) -> None:
    assert settings(cores=cores, min_cores=0.5, max_cores=max_cores).lanes == lanes


def test_an_upload_is_an_arrival_at_the_pace_of_its_link() -> None:
    uploads = Uploads()
    known = Upload(10.0, deadline=11.0, total=1000)
    uploads |= {known, Upload(10.1, deadline=12.0, total=None)}
    known.received = 250
    first, second = sorted(uploads.arrivals(10.1))
    assert (first.at, first.deadline) == (10.1, 12.0)
    assert second.at == pytest.approx(10.4)
    assert second.deadline == 11.0
    uploads.discard(known)
    assert len(uploads) == 1


def test_the_latency_window_forgets() -> None:
    recent = LatencyWindow(window_s=10.0)
    assert recent.quantile(0.0, 0.99) is None
    for number in range(100):
        recent.add(number * 0.1, float(number))
    assert recent.quantile(9.9, 0.99) == 98.0
    assert recent.quantile(9.9, 0.5) == 49.0
    assert recent.quantile(19.85, 0.99) == 99.0
    assert recent.quantile(30.0, 0.99) is None


def cgroup(directory: Path, quota_us: int) -> Path:
    (directory / "cgroup.procs").write_text("")
    (directory / "cpu.max").write_text(f"{'max' if quota_us < 0 else quota_us} 100000")
    (directory / "cpu.stat").write_text("nr_periods 0\nnr_throttled 0\nthrottled_usec 5000000\n")
    return directory


@pytest.mark.parametrize(
    ("applied", "quota_us", "in_force"),
    [
        (2.0, -1, 2.0),
        (2.0, 50_000, 0.5),
        (0.25, 50_000, 0.25),
        (2.0, 150_000, 1.5),
        (None, -1, 0.7),
        (None, 50_000, 0.5),
        (None, 450_000, 4.5),
    ],
)
def test_the_smaller_of_applied_size_and_quota_is_in_force(
    tmp_path: Path, applied: float | None, quota_us: int, in_force: float
) -> None:
    """Where nobody applies a size, the quota is in force, and without a quota what was assumed at the start."""
    quota = CpuQuota(0.7, cgroup(tmp_path, quota_us))
    if applied is not None:
        quota.apply(applied)
    assert quota.in_force == in_force
    quota.release()
    assert quota.in_force == (0.7 if quota_us < 0 else quota_us / 100_000)


def test_a_quota_that_anyone_changes_is_followed(tmp_path: Path) -> None:
    quota = CpuQuota(2.0, cgroup(tmp_path, -1))
    heard: list[float] = []
    quota.add_listener(heard.append)
    cgroup(tmp_path, 50_000)
    quota.poll()
    assert thread_budget(quota.in_force) == 1
    quota.poll()
    quota.apply(0.25)
    quota.apply(2.0)
    cgroup(tmp_path, 300_000)
    quota.poll()
    assert heard == [2.0, 0.5, 0.25, 0.5, 2.0]
    assert quota.quota_milli == 3000
    quota.release()
    cgroup(tmp_path, 125_000)
    quota.poll()
    assert heard[5:] == [3.0, 1.25]


def test_throttling_counts_from_the_start_of_the_server(tmp_path: Path) -> None:
    quota = CpuQuota(2.0, cgroup(tmp_path, 50_000))
    assert quota.throttled_s == 0.0
    (tmp_path / "cpu.stat").write_text("nr_periods 9\nnr_throttled 3\nthrottled_usec 7500000\n")
    assert quota.throttled_s == 2.5


def test_a_problem_says_it_in_the_words_of_the_standard_and_of_the_protocol() -> None:
    document = orjson.loads(ProblemError(503, "shed", "too late").body())
    assert document == {
        "type": "urn:sponge:problem:shed",
        "title": "Not now",
        "status": 503,
        "detail": "too late",
        "error": "too late",
    }


@pytest.mark.parametrize(("seconds", "told"), [(0.0, b"1"), (0.2, b"1"), (3.1, b"4"), (1e6, b"60")])
def test_when_to_try_again_follows_the_backlog_in_whole_seconds(seconds: float, told: bytes) -> None:
    assert retry_after(seconds) == ((b"retry-after", told),)
