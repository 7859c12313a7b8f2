"""The files and command lines of the parts: that they parse, agree with each other, and stay inside the run folder."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from sponge_cluster import config
from sponge_cluster.components import components
from sponge_cluster.layout import Layout
from sponge_cluster.workers import Workers


def _layout(workers: Workers, run: Path = Path("/state/dev")) -> Layout:
    return Layout("dev", run, "10.245.0.0/20", "10.97.0.0/24", 7443, 2001, 2002, 2003, 2004, workers)


LAYOUT, TWO = _layout(Workers()), _layout(Workers(2, 1.5))
(NODE,) = LAYOUT.nodes
PROGRAMS = {
    name: Path("/programs") / name
    for name in (
        "etcd",
        "containerd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
    )
}


def test_containerd_keeps_to_the_run_folder() -> None:
    text = config.containerd_config(LAYOUT, NODE, pause_image="pause:x", cni_bin="/usr/lib/cni")
    parsed = tomllib.loads(text)
    cri = parsed["plugins"]["io.containerd.grpc.v1.cri"]
    assert parsed["version"] == 2
    assert cri["sandbox_image"] == "pause:x"
    assert cri["restrict_oom_score_adj"] is True
    assert cri["cni"] == {"bin_dir": "/usr/lib/cni", "conf_dir": "/state/dev/config/cni"}
    options = cri["containerd"]["runtimes"]["runc"]["options"]
    assert options["SystemdCgroup"] is False
    opt = parsed["plugins"]["io.containerd.internal.v1.opt"]["path"]
    for path in (parsed["root"], parsed["state"], parsed["grpc"]["address"], opt, options["Root"]):
        assert path.startswith("/state/dev/")


def test_pods_hang_on_the_bridge() -> None:
    conflist = json.loads(config.cni_conflist(LAYOUT, NODE))
    (plugin,) = conflist["plugins"]
    assert conflist["name"] == "sponge-dev"
    assert plugin["bridge"] == "br-dev"
    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.245.0.0/24"}]]


def test_the_kubelet_serves_on_the_bridge_and_keeps_its_images() -> None:
    parsed = yaml.safe_load(config.kubelet_config(LAYOUT, NODE, machine_cores=4))
    assert parsed["address"] == "10.245.0.1"
    assert parsed["cgroupRoot"] == "/sponge-dev/node"
    assert parsed["containerRuntimeEndpoint"] == "unix:///state/dev/node/containerd.sock"
    assert parsed["imageGCHighThresholdPercent"] == 100
    assert parsed["podLogsDir"] == "/state/dev/node/pod-logs"
    assert parsed["syncFrequency"] == "5s"
    assert parsed["systemReserved"] == {}
    assert "nodeLeaseDurationSeconds" not in parsed


def test_kube_proxy_leaves_the_machine_alone() -> None:
    parsed = yaml.safe_load(config.kube_proxy_config(LAYOUT, NODE))
    assert parsed["hostnameOverride"] == "dev-node"
    assert parsed["nodePortAddresses"] == ["10.245.0.0/24"]
    assert parsed["iptables"]["localhostNodePorts"] is False
    assert parsed["conntrack"]["maxPerCore"] == 0


def test_a_kubeconfig_points_to_certificates_or_carries_them(tmp_path: Path) -> None:
    layout = _layout(Workers(), tmp_path)
    layout.pki.mkdir()
    for file in ("ca.crt", "admin.crt", "admin.key"):
        (layout.pki / file).write_text(file)
    linked = yaml.safe_load(config.kubeconfig(layout, "admin"))
    carried = yaml.safe_load(config.kubeconfig(layout, "admin", embed=True))
    assert linked["clusters"][0]["cluster"]["server"] == "https://10.245.0.1:7443"
    assert linked["users"][0]["user"]["client-key"] == str(layout.pki / "admin.key")
    assert base64.b64decode(carried["users"][0]["user"]["client-key-data"]) == b"admin.key"
    assert carried["current-context"] == carried["contexts"][0]["name"] == "sponge-dev"


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_every_part_runs_its_program_and_says_each_flag_once(name: str) -> None:
    component = components(LAYOUT, PROGRAMS)[name]
    program, *flags = component.argv
    names = [flag.split("=")[0] for flag in flags]
    assert program == f"/programs/{name}"
    assert len(names) == len(set(names))
    assert all(flag.startswith("--") and "=" in flag for flag in flags)


def test_the_api_server_and_etcd_agree_and_stay_off_the_network() -> None:
    parts = components(LAYOUT, PROGRAMS)
    assert "--listen-client-urls=http://127.0.0.1:2001" in parts["etcd"].argv
    assert "--etcd-servers=http://127.0.0.1:2001" in parts["kube-apiserver"].argv
    assert "--bind-address=10.245.0.1" in parts["kube-apiserver"].argv
    assert "--service-cluster-ip-range=10.97.0.0/24" in parts["kube-apiserver"].argv
    for name in ("kube-scheduler", "kube-controller-manager"):
        assert "--secure-port=0" in parts[name].argv


def test_several_nodes_share_a_control_plane_and_nothing_else() -> None:
    parts = components(TWO, PROGRAMS)
    assert [name for name, part in parts.items() if part.group == "node"] == ["containerd", "kubelet", "kube-proxy"]
    assert [name for name, part in parts.items() if part.group == "node2"] == ["containerd2", "kubelet2", "kube-proxy2"]
    assert len(parts) == 4 + 2 * 3
    own = [
        (
            config.containerd_config(TWO, node, pause_image="pause:x", cni_bin="/usr/lib/cni"),
            config.cni_conflist(TWO, node),
            config.kubelet_config(TWO, node, machine_cores=4),
            config.kube_proxy_config(TWO, node),
            " ".join(parts[node.own("kubelet")].argv),
        )
        for node in TWO.nodes
    ]
    assert all(first != second for first, second in zip(*own, strict=True))
    paths, others = (set(re.findall(r"/state/dev/[\w./-]+", "\n".join(texts))) for texts in own)
    shared = {"config/proxy.kubeconfig", "config/resolv.conf", "pki/ca.crt"}
    assert paths & others == {f"/state/dev/{file}" for file in shared}


def test_a_further_node_runs_in_a_network_of_its_own() -> None:
    parts = components(TWO, PROGRAMS)
    for name in ("containerd2", "kubelet2", "kube-proxy2"):
        assert parts[name].argv[:3] == ("nsenter", "--net=/state/dev/node2.netns", f"/programs/{name[:-1]}")
    assert "--node-ip=10.245.1.1" in parts["kubelet2"].argv
    assert "--node-labels=topology.kubernetes.io/zone=zone-b" in parts["kubelet2"].argv
    assert all(part.argv[0] != "nsenter" for name, part in parts.items() if not name.endswith("2"))


def test_a_small_node_reserves_the_rest_of_the_machine() -> None:
    parsed = yaml.safe_load(config.kubelet_config(TWO, TWO.nodes[1], machine_cores=4))
    assert parsed["systemReserved"] == {"cpu": "2500m"}


@pytest.mark.parametrize("flag", ["node-monitor-grace-period", "default-unreachable-toleration-seconds"])
def test_a_lost_node_is_noticed_quickly_where_there_is_another(flag: str) -> None:
    one, two = ("".join(" ".join(part.argv) for part in components(made, PROGRAMS).values()) for made in (LAYOUT, TWO))
    assert f"--{flag}=" in two
    assert f"--{flag}=" not in one
