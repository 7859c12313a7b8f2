"""Finding, reading and setting CPU limits, with files of both cgroup versions and on a real kernel if possible."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sponge_system.cgroup import (
    Cgroup,
    CgroupError,
    own_cgroup,
    own_cpu_cgroup,
    read_cpu_stat,
    read_memory_held,
    read_memory_limit,
    read_quota_milli,
)

V1_MOUNT = "30 23 0:26 {shown} {point} rw - cgroup cgroup rw,cpu,cpuacct"
V2_MOUNT = "30 23 0:26 {shown} {point} rw - cgroup2 cgroup2 rw"


def fake_proc(tmp_path: Path, cgroup: str, mount: str, shown: str = "/") -> Path:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(cgroup)
    (proc / "self" / "mountinfo").write_text(mount.format(shown=shown, point=tmp_path / "cg") + "\n")
    return proc


def v1(directory: Path, quota: int, period: int = 100_000) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.procs").write_text("")
    (directory / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (directory / "cpu.cfs_period_us").write_text(f"{period}\n")


def v2(directory: Path, maximum: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.procs").write_text("")
    (directory / "cgroup.controllers").write_text("cpuset cpu io memory\n")
    (directory / "cpu.max").write_text(f"{maximum}\n")


def test_own_cgroup_v1(tmp_path: Path) -> None:
    v1(tmp_path / "cg" / "pods" / "a", -1)
    proc = fake_proc(tmp_path, "4:memory:/m\n1:cpu,cpuacct:/pods/a\n0::/x\n", V1_MOUNT)
    assert own_cpu_cgroup(proc) == tmp_path / "cg" / "pods" / "a"


def test_own_cgroup_v1_in_a_container_that_shows_only_its_own(tmp_path: Path) -> None:
    v1(tmp_path / "cg", 50_000)
    proc = fake_proc(tmp_path, "1:cpu:/kubepods/pod1/c1\n", V1_MOUNT, shown="/kubepods/pod1/c1")
    assert own_cpu_cgroup(proc) == tmp_path / "cg"


def test_own_cgroup_v1_path_of_the_host_falls_back_to_the_mount(tmp_path: Path) -> None:
    v1(tmp_path / "cg", 50_000)
    proc = fake_proc(tmp_path, "1:cpu:/kubepods/pod1/c1\n", V1_MOUNT)
    assert own_cpu_cgroup(proc) == tmp_path / "cg"


def test_own_cgroup_v2(tmp_path: Path) -> None:
    v2(tmp_path / "cg", "max 100000")
    v2(tmp_path / "cg" / "a", "max 100000")
    assert own_cpu_cgroup(fake_proc(tmp_path, "0::/a\n", V2_MOUNT)) == tmp_path / "cg" / "a"


def test_own_cgroup_v2_without_the_cpu_controller_is_none(tmp_path: Path) -> None:
    (tmp_path / "cg").mkdir()
    assert own_cpu_cgroup(fake_proc(tmp_path, "0::/\n", V2_MOUNT)) is None


def test_no_procfs_is_none(tmp_path: Path) -> None:
    assert own_cpu_cgroup(tmp_path) is None


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [("max 100000", "max 100000", None), ("200000 100000", "max 100000", 2000), ("50000 100000", "150000 100000", 500)],
)
def test_quota_v2_is_the_least_of_the_ancestors(tmp_path: Path, outer: str, inner: str, expected: int | None) -> None:
    v2(tmp_path / "a", outer)
    v2(tmp_path / "a" / "b", inner)
    assert read_quota_milli(tmp_path / "a" / "b") == expected


@pytest.mark.parametrize(("outer", "inner", "expected"), [(-1, -1, None), (-1, 12_500, 125), (100_000, 400_000, 1000)])
def test_quota_v1_is_the_least_of_the_ancestors(tmp_path: Path, outer: int, inner: int, expected: int | None) -> None:
    v1(tmp_path / "a", outer)
    v1(tmp_path / "a" / "b", inner)
    assert read_quota_milli(tmp_path / "a" / "b") == expected


@pytest.mark.parametrize(("outer", "inner", "expected"), [("max", "max", None), ("900", "max", 900), ("900", "70", 70)])
def test_memory_limit_v2_is_the_least_of_the_ancestors(
    tmp_path: Path, outer: str, inner: str, expected: int | None
) -> None:
    for directory, limit in ((tmp_path / "a", outer), (tmp_path / "a" / "b", inner)):
        v2(directory, "max 100000")
        (directory / "memory.max").write_text(f"{limit}\n")
    assert read_memory_limit(tmp_path / "a" / "b") == expected


@pytest.mark.parametrize(("own", "expected"), [("9223372036854771712", None), ("1048576", 1048576)])
def test_memory_limit_v1(tmp_path: Path, own: str, expected: int | None) -> None:
    (tmp_path / "cg" / "m").mkdir(parents=True)
    for name, text in (("cgroup.procs", ""), ("memory.limit_in_bytes", f"{own}\n")):
        (tmp_path / "cg" / "m" / name).write_text(text)
    mount = "30 23 0:26 {shown} {point} rw - cgroup cgroup rw,memory"
    found = own_cgroup("memory", fake_proc(tmp_path, "4:memory:/m\n1:cpu,cpuacct:/pods/a\n0::/x\n", mount))
    assert found == tmp_path / "cg" / "m"
    assert read_memory_limit(found) == expected


def test_quota_of_a_vanished_cgroup_is_unlimited(tmp_path: Path) -> None:
    assert read_quota_milli(tmp_path / "gone") is None


@pytest.mark.parametrize(
    "text",
    [
        "nr_periods 10\nnr_throttled 4\nthrottled_time 2500000000\n",
        "usage_usec 1\nnr_periods 10\nnr_throttled 4\nthrottled_usec 2500000\n",
    ],
)
def test_cpu_stat(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.stat").write_text(text)
    stat = read_cpu_stat(tmp_path)
    assert (stat.periods, stat.throttled_periods, stat.throttled_s) == (10, 4, 2.5)


def test_creating_where_it_is_not_allowed_says_so(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match="cannot create the cgroup"):
        Cgroup.create("x", 1.0, root=tmp_path / "missing")


def test_the_kernels_own() -> None:
    """Create, limit, move a busy process in, see it throttled, remove with the process still in it."""
    if os.geteuid() != 0:
        with pytest.raises(CgroupError, match="root"):
            Cgroup.create(f"sponge-test-{os.getpid()}", 0.2)
        return
    group = Cgroup.create(f"sponge-test-{os.getpid()}", 0.2)
    spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert group.quota_milli() == 200
        group.add_pid(spinner.pid)
        assert group.pids() == [spinner.pid]
        with pytest.raises(CgroupError, match="process"):
            group.add_pid(2**22 + 1)
        while group.cpu_stat().throttled_periods < 2:
            assert spinner.poll() is None
        assert group.cpu_stat().throttled_s > 0
        group.set_quota_milli(None)
        assert group.quota_milli() is None
    finally:
        group.remove()
        spinner.kill()
        spinner.wait()
    assert not group.path.exists()
    group.remove()  # twice is fine


@pytest.mark.parametrize(
    ("usage", "stat", "held"),
    [
        pytest.param("memory.current", "anon 700\nactive_file 100\ninactive_file 200\n", 700, id="v2"),
        pytest.param(
            "memory.usage_in_bytes",
            "active_file 1\ninactive_file 1\ntotal_active_file 100\ntotal_inactive_file 200\n",
            700,
            id="v1",
        ),
        pytest.param("memory.current", None, None, id="not told"),
    ],
)
def test_memory_that_is_held(tmp_path: Path, usage: str, stat: str | None, held: int | None) -> None:
    (tmp_path / usage).write_text("1000\n")
    if stat is not None:
        (tmp_path / "memory.stat").write_text(stat)
    assert read_memory_held(tmp_path) == held
