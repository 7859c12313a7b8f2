"""Names, address ranges and ports: what is refused, and what moves out of the way."""

from __future__ import annotations

import ipaddress
import json
import socket
from pathlib import Path

import pytest

from sponge_cluster.errors import ClusterError
from sponge_cluster.layout import Layout, check_name, choose_cidrs, folder, free_port, new_layout
from sponge_cluster.workers import MOST_WORKERS, Workers


@pytest.mark.parametrize("name", ["sponge", "a", "my-test-2", "abcdefghijkl"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "Sponge", "2fast", "a_b", "a-", "-a", "../up", "abcdefghijklm", "a\n"])
def test_bad_names_say_what_is_allowed(name: str) -> None:
    with pytest.raises(ClusterError, match="use 1 to 12 lower-case letters"):
        check_name(name)


def test_a_name_fits_an_interface() -> None:
    layout = _layout("abcdefghijkl", Workers(MOST_WORKERS))
    assert max(len(name) for name in (layout.bridge, *(node.link for node in layout.nodes))) == 15


@pytest.mark.parametrize(
    ("routes", "pods", "services"),
    [
        ([], "10.244.0.0/20", "10.96.0.0/20"),
        (["192.168.1.0/24", "0.0.0.0/0"], "10.244.0.0/20", "10.96.0.0/20"),
        (["10.244.0.0/16"], "10.245.0.0/20", "10.96.0.0/20"),
        (["10.244.0.7", "10.96.0.0/12"], "10.245.0.0/20", "10.112.0.0/20"),
    ],
)
def test_ranges_avoid_what_is_routed(routes: list[str], pods: str, services: str) -> None:
    assert choose_cidrs(routes) == (pods, services)


def test_no_range_left_is_an_error() -> None:
    with pytest.raises(ClusterError, match="no address range is free"):
        choose_cidrs(["10.0.0.0/8"])


def test_a_taken_port_is_not_handed_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) not in (0, port)


def test_addresses_follow_from_the_ranges() -> None:
    layout = _layout("sponge")
    assert (layout.gateway, layout.api_service) == ("10.244.0.1", "10.96.0.1")
    assert layout.server == "https://10.244.0.1:6443"


def test_a_layout_survives_json() -> None:
    layout = _layout("sponge", Workers(3, 0.5))
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_the_run_folder_is_in_the_state_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert folder("sponge") == Path("/state/sponge/cluster/sponge")
    assert new_layout("sponge", [], Workers()).run == folder("sponge")


def test_a_path_too_long_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/" + "x" * 80)
    with pytest.raises(ClusterError, match="set XDG_STATE_HOME to a shorter folder"):
        folder("sponge")


def test_nodes_share_no_name_and_no_address() -> None:
    layout = _layout("sponge", Workers(MOST_WORKERS))
    nodes = layout.nodes
    assert [node.name for node in nodes[:3]] == ["sponge-node", "sponge-node2", "sponge-node3"]
    assert [node.address for node in nodes[:3]] == ["10.244.0.1", "10.244.1.1", "10.244.2.1"]
    assert [node.zone for node in nodes[:3]] == ["zone-a", "zone-b", "zone-a"]
    for part in ("name", "cgroup", "folder", "containerd_socket", "pod_cidr", "namespace", "link"):
        assert len({getattr(node, part) for node in nodes}) == MOST_WORKERS
    whole = ipaddress.IPv4Network(layout.pod_cidr)
    assert all(ipaddress.IPv4Network(node.pod_cidr).subnet_of(whole) for node in nodes)


def test_a_wrong_name_of_a_node_is_answered_with_the_right_ones() -> None:
    layout = _layout("sponge", Workers(2))
    assert layout.node("sponge-node2") == layout.nodes[1]
    with pytest.raises(ClusterError, match="no node 'node2', only sponge-node, sponge-node2"):
        layout.node("node2")


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        (Workers(0), "use --workers 1 to 8"),
        (Workers(9), "use --workers 1 to 8"),
        (Workers(2, 0.0), "use --worker-cpu 0.1 to 4"),
        (Workers(2, 4.5), "use --worker-cpu 0.1 to 4"),
        (Workers(2, float("nan")), "use --worker-cpu 0.1 to 4"),
    ],
)
def test_nodes_that_cannot_be_are_refused(workers: Workers, said: str) -> None:
    with pytest.raises(ClusterError, match=said):
        workers.check(machine_cores=4)


def _layout(name: str, workers: Workers = Workers()) -> Layout:
    return Layout(name, Path("/run/x"), "10.244.0.0/20", "10.96.0.0/24", 6443, 1, 2, 3, 4, workers)
