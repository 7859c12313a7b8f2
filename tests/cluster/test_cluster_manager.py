"""Which backend is taken and why, what kind is asked to do, and what is known of a cluster that does not run."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar

import pytest
import yaml
from click.testing import CliRunner

import sponge_cluster
from sponge_cluster import (
    Cluster,
    ClusterError,
    SilentProgress,
    Status,
    Workers,
    connect,
    down,
    manager,
    python_pod,
    status,
)
from sponge_cluster.api import node_is_ready
from sponge_cluster.command import command
from sponge_cluster.host_python import host_mounts, outermost
from sponge_cluster.kind import (
    KindBackend,
    create_command,
    delete_command,
    kind_config,
    load_command,
    node_names,
)
from sponge_cluster.layout import clusters_folder
from sponge_cluster.locks import locked
from sponge_cluster.manager import choose
from sponge_cluster.native import NativeBackend
from sponge_cluster.processes import alive, spawn, stop, wait_until
from sponge_cluster.progress import Progress
from sponge_cluster.state_file import read_processes, read_state, write_processes, write_state


@pytest.fixture(autouse=True)
def state_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # short: pytest's own is too long for sockets
        monkeypatch.setenv("XDG_STATE_HOME", folder)
        yield Path(folder)


@pytest.mark.parametrize(
    ("requested", "docker", "kind", "chosen", "why"),
    [
        ("auto", True, True, "kind", "a Docker engine answers and kind is installed"),
        ("auto", True, False, "native", "there is no `kind` program"),
        ("auto", False, True, "native", "no Docker engine answers"),
        ("auto", False, False, "native", "no Docker engine answers"),
        ("native", True, True, "native", "as requested"),
        ("kind", True, True, "kind", "as requested"),
    ],
)
def test_the_backend_and_the_reason(requested: Any, docker: bool, kind: bool, chosen: str, why: str) -> None:
    assert choose(requested, docker=docker, kind=kind) == (chosen, why)


@pytest.mark.parametrize(("docker", "kind", "lack"), [(False, True, "no Docker engine"), (True, False, "no `kind`")])
def test_kind_that_cannot_work_is_refused(docker: bool, kind: bool, lack: str) -> None:
    with pytest.raises(ClusterError, match=lack):
        choose("kind", docker=docker, kind=kind)


class Made(KindBackend):
    """A cluster of two nodes that runs, or is made anew as asked."""

    runs = False
    made: ClassVar[list[Workers]] = []

    def status(self, name: str) -> Status:
        return Status(name, "running" if self.runs else "stopped", ready=self.runs)

    def up(self, name: str, workers: Workers, progress: Progress) -> Cluster:
        self.made.append(workers)
        return self.connect(name)

    def down(self, name: str, progress: Progress) -> None:
        """Changes nothing."""


HAD = Workers(2, 1.5)


@pytest.fixture
def made(state_home: Path, monkeypatch: pytest.MonkeyPatch) -> type[Made]:
    state = {"backend": "kind", "mounts": [], "clients": {"kubectl": "/k", "helm": "/h"}, "workers": HAD.to_json()}
    write_state(state_home / "sponge" / "cluster" / "dev", state)
    monkeypatch.setattr(manager, "_BACKENDS", {"kind": Made})
    monkeypatch.setattr(manager, "choose", lambda *_, **__: ("kind", "for the test"))
    monkeypatch.setattr(Made, "made", [])
    return Made


@pytest.mark.parametrize("asked", [None, Workers(3)])
def test_a_broken_cluster_comes_back_with_as_many_nodes(asked: Workers | None, made: type[Made]) -> None:
    manager.up("dev", workers=asked)
    assert made.made == [asked or HAD]


@pytest.mark.parametrize("asked", [None, HAD])
def test_a_cluster_that_runs_is_found(asked: Workers | None, made: type[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "runs", True)
    assert manager.up("dev", workers=asked).workers == HAD
    assert made.made == []


@pytest.mark.parametrize("asked", [Workers(), Workers(2), Workers(3, 1.5)])
def test_a_cluster_that_runs_gets_no_other_nodes(
    asked: Workers, made: type[Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "runs", True)
    with pytest.raises(ClusterError, match=r"runs with 2 nodes of 1.5 cores; run `sponge cluster down` first"):
        manager.up("dev", workers=asked)


@pytest.mark.usefixtures("made")
def test_down_waits_for_an_up_that_is_under_way() -> None:
    said = Said()
    with locked(clusters_folder() / "dev.lock", lambda: None):
        going = Thread(target=manager.down, args=("dev", said))
        going.start()
        assert said.something.wait(10.0)
        assert going.is_alive()
    going.join(10.0)
    assert not going.is_alive()


class Said(SilentProgress):
    """Notes that something was said."""

    def __init__(self) -> None:
        self.something = Event()

    def say(self, text: str) -> None:
        assert "waiting for another" in text
        self.something.set()


def test_the_kind_node_has_the_host_beside_its_own_folders() -> None:
    document = yaml.safe_load(kind_config(["/usr", "/opt/python"], Workers(), machine_cores=4))
    assert document["apiVersion"] == "kind.x-k8s.io/v1alpha4"
    (node,) = document["nodes"]
    assert node["extraMounts"] == [
        {"hostPath": "/usr", "containerPath": "/host/usr", "readOnly": True},
        {"hostPath": "/opt/python", "containerPath": "/host/opt/python", "readOnly": True},
    ]


def test_several_kind_nodes_stand_beside_a_control_plane_without_pods() -> None:
    workers = Workers(3, 1.5)
    document = yaml.safe_load(kind_config(["/usr"], workers, machine_cores=4))
    control_plane, *others = document["nodes"]
    assert control_plane == {"role": "control-plane"}
    assert [node["labels"]["topology.kubernetes.io/zone"] for node in others] == ["zone-a", "zone-b", "zone-a"]
    assert {node["role"] for node in others} == {"worker"}
    assert all(node["extraMounts"] for node in others)
    (patch,) = map(yaml.safe_load, document["kubeadmConfigPatches"])
    assert patch == {"kind": "KubeletConfiguration", "systemReserved": {"cpu": "2500m"}}
    assert node_names("dev", workers) == ("dev-worker", "dev-worker2", "dev-worker3")
    assert node_names("dev", Workers()) == ("dev-control-plane",)


def test_what_docker_can_do_to_a_kind_node_is_left_to_it() -> None:
    with pytest.raises(ClusterError, match="use `docker kill dev-worker2`"):
        KindBackend().change_node("dev", "dev-worker2", "stop", SilentProgress())


def test_kind_never_writes_to_the_users_own_kubeconfig() -> None:
    run = Path("/state/dev")
    for argv in (create_command("dev", run), delete_command("dev", run)):
        assert argv[argv.index("--kubeconfig") + 1] == "/state/dev/kubeconfig"
        assert argv[argv.index("--name") + 1] == "dev"
    assert create_command("dev", run)[:3] == ["kind", "create", "cluster"]
    assert load_command("dev", run / "a.tar") == ["kind", "load", "image-archive", "/state/dev/a.tar", "--name", "dev"]


@pytest.mark.parametrize(
    ("paths", "kept"),
    [
        (["/usr", "/usr/local", "/lib"], ("/lib", "/usr")),
        (["/a/b", "/a", "/ab"], ("/a", "/ab")),
        (["/x", "/x"], ("/x",)),
        (["/a-b", "/a", "/a/c"], ("/a", "/a-b")),
    ],
)
def test_a_folder_inside_another_needs_no_mount(paths: list[str], kept: tuple[str, ...]) -> None:
    assert outermost(paths) == kept


def test_this_environment_is_below_the_mounts() -> None:
    mounts = host_mounts()
    for needed in (sponge_cluster.__file__, json.__file__, yaml.__file__):
        assert any(Path(needed).resolve().is_relative_to(mount) for mount in mounts)


def test_pods_see_the_models_that_this_machine_has_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mounts = host_mounts()
    assert str(tmp_path / "cache" / "sponge" / "models") in mounts
    assert (tmp_path / "cache" / "sponge" / "models").is_dir()
    assert f"XDG_CACHE_HOME={tmp_path / 'cache'}" in python_pod(mounts).command


@pytest.mark.parametrize("host_root", ["", "/host"])
def test_a_python_pod_mounts_read_only_at_the_same_paths(host_root: str) -> None:
    template = python_pod(["/usr", "/opt/python"], host_root).template("server")
    (container,) = template["spec"]["containers"]
    assert container["name"] == "server"
    assert container["imagePullPolicy"] == "Never"
    assert container["command"][-2:] == ["-m", "sponge_cli.main"]
    assert [m["mountPath"] for m in container["volumeMounts"]] == ["/usr", "/opt/python"]
    assert all(m["readOnly"] for m in container["volumeMounts"])
    assert [v["hostPath"]["path"] for v in template["spec"]["volumes"]] == [
        f"{host_root}/usr",
        f"{host_root}/opt/python",
    ]
    assert [m["name"] for m in container["volumeMounts"]] == [v["name"] for v in template["spec"]["volumes"]]


def _node(ready: str, taints: list[str]) -> dict[str, Any]:
    conditions = [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}]
    return {"status": {"conditions": conditions}, "spec": {"taints": [{"key": key} for key in taints]}}


@pytest.mark.parametrize(
    ("node", "ready"),
    [
        (_node("True", []), True),
        (_node("True", ["node.kubernetes.io/not-ready"]), False),
        (_node("True", ["somebody/else"]), True),
        (_node("Unknown", []), False),
        ({}, False),
    ],
)
def test_a_node_is_ready_when_pods_can_go_there(node: dict[str, Any], ready: bool) -> None:
    assert node_is_ready(node) is ready


def test_a_cluster_that_was_never_started_is_stopped() -> None:
    assert status("nobody") == Status("nobody", "stopped", ready=False)
    assert down("nobody") is False
    with pytest.raises(ClusterError, match="start it with `sponge cluster up --name nobody`"):
        connect("nobody")


def test_a_record_that_was_cut_short_counts_as_none(state_home: Path) -> None:
    write_state(state_home / "run", {"backend": "native"})
    assert read_state(state_home / "run") == {"backend": "native"}
    (state_home / "run" / "cluster.json").write_text('{"backend": ')
    assert read_state(state_home / "run") is None
    assert read_processes(state_home / "run") == {}


def test_the_native_cluster_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match=r"needs root .*: use sudo, or install Docker and kind"):
        sponge_cluster.up("nobody", "native")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and Linux namespaces")
def test_a_cluster_in_another_network_is_not_taken_for_one_that_crashed(state_home: Path) -> None:
    run = state_home / "sponge" / "cluster" / "nobody"
    write_state(run, {"backend": "native"})
    command = ("unshare", "--net", "--", sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")
    server = spawn(command, log=run / "log", env=os.environ, cwd=run)
    try:
        wait_until(lambda: (run / "log").read_text() == "up\n", "its own network", timeout_s=10.0)
        write_processes(run, {"kube-apiserver": server})
        with pytest.raises(ClusterError, match=r"runs in another network namespace .* cluster down --name nobody"):
            NativeBackend().up("nobody", Workers(), SilentProgress())
        assert alive(server)
    finally:
        stop([server], 0.0)


def test_status_answers_programs_and_exit_codes() -> None:
    result = CliRunner().invoke(command, ["status", "--name", "nobody", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["state"] == "stopped"


def test_impossible_nodes_are_refused_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    result = CliRunner().invoke(command, ["up", "--name", "nobody", "--backend", "native", "--workers", "99"])
    assert isinstance(result.exception, ClusterError)
    assert "99 nodes are not possible: use --workers 1 to 8" in str(result.exception)


def test_a_node_of_no_cluster_cannot_fail() -> None:
    result = CliRunner().invoke(command, ["node", "stop", "nobody-node", "--name", "nobody"])
    assert isinstance(result.exception, ClusterError)


def test_down_with_nothing_to_stop_is_fine() -> None:
    result = CliRunner().invoke(command, ["down", "--name", "nobody"])
    assert (result.exit_code, result.stdout) == (0, "cluster 'nobody' is not running\n")


@pytest.mark.parametrize("words", ["up", "down", "status", "kubeconfig", "node stop x"])
def test_help_has_an_example_and_bad_names_are_refused(words: str) -> None:
    shown = CliRunner().invoke(command, [words.split()[0], "--help"])
    assert shown.exit_code == 0
    assert "Example:" in shown.stdout
    refused = CliRunner().invoke(command, [*words.split(), "--name", "Bad Name"])
    assert isinstance(refused.exception, ClusterError)


def test_what_the_package_exports() -> None:
    assert all(hasattr(sponge_cluster, name) for name in sponge_cluster.__all__)
    assert {"Cluster", "up", "down", "status", "connect", "python_pod"} <= set(sponge_cluster.__all__)
