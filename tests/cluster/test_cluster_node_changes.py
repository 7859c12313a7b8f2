"""What may happen to a node, and what may not; the real changes are in tests/e2e/nodes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sponge_cluster import ClusterError, SilentProgress, Workers
from sponge_cluster.layout import Layout
from sponge_cluster.node_changes import change_node
from sponge_cluster.processes import ProcessId, parse_stat, spawn, stop, wait_until
from sponge_cluster.state_file import write_processes


def _layout(run: Path, count: int) -> Layout:
    return Layout("dev", run, "10.245.0.0/20", "10.97.0.0/24", 7443, 1, 2, 3, 4, Workers(count))


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[ProcessId]:
    """A process in a kubelet's place."""
    sleep = (sys.executable, "-c", "import time; time.sleep(60)")
    process = spawn(sleep, log=tmp_path / "log", env=os.environ, cwd=tmp_path)
    yield process
    stop([process], 0.0)


def _hangs(process: ProcessId) -> bool:
    return parse_stat(Path(f"/proc/{process.pid}/stat").read_text())[0] == "T"


@pytest.mark.parametrize(
    ("count", "said"), [(2, "nodes that can be cut: dev-node2"), (1, "start a cluster with --workers 2")]
)
def test_the_first_node_cannot_be_cut_off(tmp_path: Path, count: int, said: str) -> None:
    layout = _layout(tmp_path, count)
    with pytest.raises(ClusterError, match=said):
        change_node(layout, layout.nodes[0], "cut", SilentProgress())


def test_a_kubelet_that_is_dead_cannot_hang(tmp_path: Path, sleeper: ProcessId) -> None:
    layout = _layout(tmp_path, 2)
    write_processes(tmp_path, {"kubelet": sleeper, "kubelet2": ProcessId(sleeper.pid, sleeper.started - 1)})
    with pytest.raises(ClusterError, match="start it with `sponge cluster node start dev-node2`"):
        change_node(layout, layout.nodes[1], "pause", SilentProgress())
    assert not _hangs(sleeper)


def test_only_the_kubelet_of_that_node_hangs_and_goes_on(tmp_path: Path, sleeper: ProcessId) -> None:
    layout = _layout(tmp_path, 2)
    write_processes(tmp_path, {"kubelet": ProcessId(1, 1), "kubelet2": sleeper})
    change_node(layout, layout.nodes[1], "pause", SilentProgress())
    wait_until(lambda: _hangs(sleeper), "its stop", timeout_s=5.0)
    change_node(layout, layout.nodes[1], "resume", SilentProgress())
    wait_until(lambda: not _hangs(sleeper), "its going on", timeout_s=5.0)
