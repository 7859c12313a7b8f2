"""The files and command lines of the parts: that they parse, agree with each other, and stay inside the run folder."""

from __future__ import annotations

import base64
import json
import tomllib
from pathlib import Path

import pytest
import yaml

from sponge_cluster import config
from sponge_cluster.components import components
from sponge_cluster.layout import Layout

LAYOUT = Layout("dev", Path("/state/dev"), "10.245.0.0/24", "10.97.0.0/24", 7443, 2001, 2002, 2003, 2004)
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
    text = config.containerd_config(LAYOUT, pause_image="pause:x", cni_bin="/usr/lib/cni")
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
    conflist = json.loads(config.cni_conflist(LAYOUT))
    (plugin,) = conflist["plugins"]
    assert conflist["name"] == "sponge-dev"
    assert plugin["bridge"] == "br-dev"
    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.245.0.0/24"}]]


def test_the_kubelet_serves_on_the_bridge_and_keeps_its_images() -> None:
    parsed = yaml.safe_load(config.kubelet_config(LAYOUT))
    assert parsed["address"] == "10.245.0.1"
    assert parsed["cgroupRoot"] == "/sponge-dev"
    assert parsed["containerRuntimeEndpoint"] == "unix:///state/dev/containerd.sock"
    assert parsed["imageGCHighThresholdPercent"] == 100
    assert parsed["podLogsDir"] == "/state/dev/pod-logs"
    assert parsed["syncFrequency"] == "5s"


def test_kube_proxy_leaves_the_machine_alone() -> None:
    parsed = yaml.safe_load(config.kube_proxy_config(LAYOUT))
    assert parsed["hostnameOverride"] == "dev-node"
    assert parsed["nodePortAddresses"] == ["10.245.0.0/24"]
    assert parsed["iptables"]["localhostNodePorts"] is False
    assert parsed["conntrack"]["maxPerCore"] == 0


def test_a_kubeconfig_points_to_certificates_or_carries_them(tmp_path: Path) -> None:
    layout = Layout("dev", tmp_path, "10.245.0.0/24", "10.97.0.0/24", 7443, 1, 2, 3, 4)
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
