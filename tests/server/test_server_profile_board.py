"""What the control port tells about the profile, and profiles of earlier starts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sponge_profiles.profile import Profile, load_profile
from sponge_profiles.timing import cpu_type
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.startup.profile_board import READER_S, ProfileBoard, stored_profile


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.procs").write_text("")
    (tmp_path / "cpu.stat").write_text("nr_periods 0\n")
    (tmp_path / "cpu.max").write_text("100000 100000")
    return tmp_path


async def test_a_limit_is_waited_for_while_somebody_reads(cgroup: Path) -> None:
    quota, board = CpuQuota(1.0, cgroup), ProfileBoard()
    try:
        assert quota.quota_milli == 1000
        assert board.read().wants_milli is None
        asking = asyncio.create_task(board.grown(2, quota))
        await asyncio.sleep(0)
        assert board.read().wants_milli == 2000
        (cgroup / "cpu.max").write_text("200000 100000")
        assert await asking
        assert board.read().wants_milli is None
    finally:
        quota.close()


async def test_nobody_is_asked_where_nobody_reads(cgroup: Path) -> None:
    clock = Clock()
    quota, board = CpuQuota(1.0, cgroup), ProfileBoard(clock)
    try:
        assert not await board.grown(2, quota)
        board.read()
        clock.now += READER_S + 0.1
        assert not await board.grown(2, quota)
    finally:
        quota.close()


async def test_a_limit_that_is_not_granted_ends_the_wait(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sponge_server.startup.profile_board.GRANT_S", 0.05)
    quota, board = CpuQuota(1.0, cgroup), ProfileBoard()
    try:
        board.read()
        assert not await board.grown(2, quota)
        assert board.read().wants_milli is None
    finally:
        quota.close()


def test_the_report_carries_what_was_measured_and_not_what_was_given() -> None:
    profile, board = load_profile("resnet18-paper"), ProfileBoard()
    assert (board.read().origin, board.read().cpu_type) == ("unknown", cpu_type())
    board.measuring()
    assert board.read().origin == "measuring"
    board.known(profile, origin="measured")
    report = board.read()
    assert report.profile is not None
    assert Profile.from_yaml(report.profile, "sent") == profile
    board.known(profile, origin="measured", noisy=True)
    assert (board.read().origin, board.read().profile) == ("measured", None)
    board.known(profile, origin="given")
    assert (board.read().origin, board.read().profile) == ("given", None)


def test_a_stored_profile_is_found_by_the_type_of_cpu(tmp_path: Path) -> None:
    profile, prefix = load_profile("resnet18-paper"), tmp_path / "abc"
    assert stored_profile(None, profile.model, 1) is None
    assert stored_profile(prefix, profile.model, 1) is None
    profile.save(tmp_path / "abc-another-cpu.yaml")
    assert stored_profile(prefix, profile.model, 1) is None
    profile.save(tmp_path / f"abc-{cpu_type()}.yaml")
    assert stored_profile(prefix, profile.model, profile.max_batch) == profile
    assert stored_profile(prefix, profile.model, profile.max_batch + 1) is None
    assert stored_profile(prefix, "another-model", 1) is None
    (tmp_path / f"abc-{cpu_type()}.yaml").write_text("name: [")
    assert stored_profile(prefix, profile.model, 1) is None


def test_the_type_of_cpu_can_be_a_key() -> None:
    assert cpu_type() == cpu_type().strip("-")
    assert set(cpu_type()) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
