"""Names, folders, addresses and ports of one native cluster, derived from its name and the free ones of the machine.

Pure but for the two functions that ask the machine (`folder`, `free_port`). Everything that the cluster makes on the
machine is named here, so this is the list to read when asking what it touches.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sponge_cluster.errors import ClusterError

__all__ = [
    "Layout",
    "bridge_name",
    "check_name",
    "choose_cidrs",
    "clusters_folder",
    "folder",
    "free_port",
    "group_name",
    "new_layout",
]

_SOCKET_PATH_MAX = 104  # bytes; containerd's own limit, a little below the kernel's
_PREFERRED_API_PORT = 6443


@dataclass(frozen=True, slots=True)
class Layout:
    """Names, folders, addresses and ports of one native cluster."""

    name: str
    run: Path
    pod_cidr: str
    service_cidr: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int
    proxy_metrics_port: int
    proxy_health_port: int

    @property
    def bridge(self) -> str:
        """The network bridge of all pods; the host's address on it is `gateway`."""
        return bridge_name(self.name)

    @property
    def cgroup(self) -> str:
        """The cgroup below which the kubelet makes its own."""
        return group_name(self.name)

    @property
    def network(self) -> str:
        """The CNI network; its name identifies this cluster's entries in the machine's CNI cache."""
        return group_name(self.name)

    @property
    def node(self) -> str:
        """The name of the one node."""
        return f"{self.name}-node"

    @property
    def gateway(self) -> str:
        """The host's address on the bridge: of the API server, of the node, and of the pods' gateway."""
        return str(next(ipaddress.ip_network(self.pod_cidr).hosts()))

    @property
    def api_service(self) -> str:
        """The cluster address of the `kubernetes` Service."""
        return str(next(ipaddress.ip_network(self.service_cidr).hosts()))

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return f"https://{self.gateway}:{self.api_port}"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.run / "pki"

    @property
    def config(self) -> Path:
        """Configuration files and the components' kubeconfigs."""
        return self.run / "config"

    @property
    def logs(self) -> Path:
        """One log per component."""
        return self.run / "logs"

    @property
    def containerd_socket(self) -> Path:
        """containerd's gRPC socket."""
        return self.run / "containerd.sock"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for users and other programs."""
        return self.run / "kubeconfig"

    def to_json(self) -> dict[str, Any]:
        """Plain values for `from_json`."""
        return asdict(self) | {"run": str(self.run)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Layout:
        """The layout that `to_json` wrote."""
        return cls(**(values | {"run": Path(values["run"])}))


def bridge_name(name: str) -> str:
    """The bridge of the cluster of that name."""
    return f"br-{name}"


def group_name(name: str) -> str:
    """The cgroup, and the CNI network, of the cluster of that name."""
    return f"sponge-{name}"


def check_name(name: str) -> str:
    """Returns the name if a bridge, a cgroup and a node can carry it.

    Raises:
        ClusterError: they cannot.
    """
    # A Linux interface name holds 15 bytes, three of which are "br-".
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", name):
        raise ClusterError(
            f"'{name}' cannot name a cluster: use 1 to 12 lower-case letters, digits and inner dashes, a letter first"
        )
    return name


def clusters_folder() -> Path:
    """The folder with one folder per cluster."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "sponge" / "cluster"


def folder(name: str) -> Path:
    """The run folder of one cluster.

    Raises:
        ClusterError: the name is malformed, or the path is too long for a socket in it.
    """
    run = clusters_folder() / check_name(name)
    longest_socket = run / "kubelet" / "pod-resources" / "kubelet.sock"
    if len(os.fsencode(longest_socket)) > _SOCKET_PATH_MAX:
        raise ClusterError(f"{run} is too long a path for sockets; set XDG_STATE_HOME to a shorter folder")
    return run


def choose_cidrs(in_use: Iterable[str]) -> tuple[str, str]:
    """A pod range and a service range that overlap none of `in_use` (the machine's routes, as CIDRs).

    Raises:
        ClusterError: all candidates are taken.
    """
    taken = [ipaddress.ip_network(cidr, strict=False) for cidr in in_use]
    taken = [net for net in taken if net.prefixlen > 0]

    def first_free(candidates: Iterable[str]) -> str:
        for candidate in candidates:
            if not any(ipaddress.ip_network(candidate).overlaps(net) for net in taken):
                return candidate
        raise ClusterError("no address range is free for pods and services: this machine has routes for all candidates")

    pods = first_free(f"10.{second}.0.0/24" for second in range(244, 256))
    services = first_free(f"10.{second}.0.0/20" for second in (*range(96, 128), *range(64, 96)))
    return pods, services


def free_port(preferred: int = 0) -> int:
    """A TCP port that nothing listens on, on any address; `preferred` if that is free."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ClusterError("no free TCP port on this machine")


def new_layout(name: str, routes: Iterable[str]) -> Layout:
    """Chooses names and addresses for a new cluster."""
    pods, services = choose_cidrs(routes)
    return Layout(
        name=name,
        run=folder(name),
        pod_cidr=pods,
        service_cidr=services,
        api_port=free_port(_PREFERRED_API_PORT),
        etcd_port=free_port(),
        etcd_peer_port=free_port(),
        proxy_metrics_port=free_port(),
        proxy_health_port=free_port(),
    )
