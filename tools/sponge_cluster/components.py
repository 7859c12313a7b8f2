"""The command lines of a native cluster's daemons; `native` starts and stops them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sponge_cluster.layout import Layout

__all__ = ["Component", "components"]


_Flags = Mapping[str, str | int | Path]


@dataclass(frozen=True, slots=True)
class Component:
    """One daemon: its command line and its name, which its log and its entry in the state file share."""

    name: str
    argv: tuple[str, ...]


def components(layout: Layout, programs: Mapping[str, Path]) -> dict[str, Component]:
    """Every daemon by name; `programs` maps the program names to their files."""
    flags: dict[str, _Flags] = {
        "etcd": _etcd(layout),
        "containerd": {"config": layout.config / "containerd.toml"},
        "kube-apiserver": _apiserver(layout),
        "kube-controller-manager": _controller_manager(layout),
        "kube-scheduler": {
            "kubeconfig": layout.config / "scheduler.kubeconfig",
            "leader-elect": "false",
            "secure-port": 0,
            "kube-api-qps": 300,
            "kube-api-burst": 600,
        },
        "kubelet": {
            "config": layout.config / "kubelet.yaml",
            "kubeconfig": layout.config / "kubelet.kubeconfig",
            "root-dir": layout.run / "kubelet",
            "cert-dir": layout.pki / "kubelet",
            "hostname-override": layout.node,
            "node-ip": layout.gateway,
        },
        "kube-proxy": {"config": layout.config / "kube-proxy.yaml"},
    }
    return {
        name: Component(name, (str(programs[name]), *(f"--{flag}={value}" for flag, value in values.items())))
        for name, values in flags.items()
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
    }


def _controller_manager(layout: Layout) -> _Flags:
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
    }
