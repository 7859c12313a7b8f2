"""The command lines of a native cluster's daemons; `native` starts and stops them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sponge_cluster.layout import Layout, Node
from sponge_cluster.workers import ZONE_LABEL

__all__ = ["CONTROL_PLANE", "Component", "components"]

CONTROL_PLANE = "control-plane"
"""The group of the daemons that belong to no node."""

_Flags = Mapping[str, str | int | Path]


@dataclass(frozen=True, slots=True)
class Component:
    """One daemon.

    Attributes:
        name: its log and its entry in the state file share it.
        argv: its command line.
        group: that of its node, or `CONTROL_PLANE`.
    """

    name: str
    argv: tuple[str, ...]
    group: str


def components(layout: Layout, programs: Mapping[str, Path]) -> dict[str, Component]:
    """Every daemon by name; `programs` maps the program names to their files."""
    made = [_component(program, programs, flags, CONTROL_PLANE) for program, flags in _control_plane(layout).items()]
    for node in layout.nodes:
        inside = () if node.namespace is None else ("nsenter", f"--net={node.namespace}")
        for program, flags in _node(layout, node).items():
            made.append(_component(program, programs, flags, node.group, node.own(program), inside))
    return {component.name: component for component in made}


def _component(
    program: str,
    programs: Mapping[str, Path],
    flags: _Flags,
    group: str,
    name: str | None = None,
    inside: tuple[str, ...] = (),
) -> Component:
    argv = (*inside, str(programs[program]), *(f"--{flag}={value}" for flag, value in flags.items()))
    return Component(name or program, argv, group)


def _control_plane(layout: Layout) -> dict[str, _Flags]:
    return {
        "etcd": _etcd(layout),
        "kube-apiserver": _apiserver(layout),
        "kube-controller-manager": _controller_manager(layout),
        "kube-scheduler": {
            "kubeconfig": layout.config / "scheduler.kubeconfig",
            "leader-elect": "false",
            "secure-port": 0,
            "kube-api-qps": 300,
            "kube-api-burst": 600,
        },
    }


def _node(layout: Layout, node: Node) -> dict[str, _Flags]:
    kubelet = node.own("kubelet")
    return {
        "containerd": {"config": layout.config / f"{node.own('containerd')}.toml"},
        "kubelet": {
            "config": layout.config / f"{kubelet}.yaml",
            "kubeconfig": layout.config / f"{kubelet}.kubeconfig",
            "root-dir": node.folder / "kubelet",
            "cert-dir": layout.pki / kubelet,
            "hostname-override": node.name,
            "node-ip": node.address,
            "node-labels": f"{ZONE_LABEL}={node.zone}",
        },
        "kube-proxy": {"config": layout.config / f"{node.own('kube-proxy')}.yaml"},
    }


def _etcd(layout: Layout) -> _Flags:
    clients = f"http://127.0.0.1:{layout.etcd_port}"
    peers = f"http://127.0.0.1:{layout.etcd_peer_port}"
    return {
        "name": layout.name,
        "data-dir": layout.run / "etcd",
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"{layout.name}={peers}",
        # The data of this cluster ends with it, so a power cut cannot lose anything.
        "unsafe-no-fsync": "true",
        "log-level": "warn",
    }


def _apiserver(layout: Layout) -> _Flags:
    pki = layout.pki
    # Pods of a node that is lost are replaced after 20 s; the default is five minutes.
    quick: _Flags = {f"default-{state}-toleration-seconds": 20 for state in ("not-ready", "unreachable")}
    return {
        "etcd-servers": f"http://127.0.0.1:{layout.etcd_port}",
        # On the bridge only: pods and this machine can reach it, the network outside cannot.
        "bind-address": layout.gateway,
        "advertise-address": layout.gateway,
        "secure-port": layout.api_port,
        "service-cluster-ip-range": layout.service_cidr,
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "client-ca-file": pki / "ca.crt",
        "tls-cert-file": pki / "apiserver.crt",
        "tls-private-key-file": pki / "apiserver.key",
        "kubelet-certificate-authority": pki / "ca.crt",
        "kubelet-client-certificate": pki / "apiserver-kubelet.crt",
        "kubelet-client-key": pki / "apiserver-kubelet.key",
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": pki / "service-accounts.pub",
        "service-account-signing-key-file": pki / "service-accounts.key",
        "requestheader-client-ca-file": pki / "front-proxy-ca.crt",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": pki / "front-proxy.crt",
        "proxy-client-key-file": pki / "front-proxy.key",
        "profiling": "false",
        **(quick if layout.workers.count > 1 else {}),
    }


def _controller_manager(layout: Layout) -> _Flags:
    quick: _Flags = {"node-monitor-period": "1s", "node-monitor-grace-period": "10s"}
    return {
        "kubeconfig": layout.config / "controller-manager.kubeconfig",
        "leader-elect": "false",
        "secure-port": 0,
        "use-service-account-credentials": "true",
        "service-account-private-key-file": layout.pki / "service-accounts.key",
        "root-ca-file": layout.pki / "ca.crt",
        # The defaults (20 and 30) double the time until the `default` service account exists.
        "kube-api-qps": 300,
        "kube-api-burst": 600,
        **(quick if layout.workers.count > 1 else {}),
    }
