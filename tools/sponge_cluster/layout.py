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
from itertools import islice
from pathlib import Path
from typing import Any

from sponge_cluster.errors import ClusterError
from sponge_cluster.workers import MOST_WORKERS, Workers, zone

__all__ = [
    "Layout",
    "Node",
    "bridge_name",
    "check_name",
    "choose_cidrs",
    "clusters_folder",
    "folder",
    "free_port",
    "group_name",
    "link_name",
    "new_layout",
]

_SOCKET_PATH_MAX = 104  # bytes; containerd's own limit, a little below the kernel's
_PREFERRED_API_PORT = 6443
_POD_PREFIX, _NODE_PREFIX = 20, 24
"""Lengths of the prefixes of all pods' range, and of one node's part of it."""


@dataclass(frozen=True, slots=True)
class Node:
    """Names, folders and addresses of one node, which is `number` of its cluster, counted from 1.

    The first node shares the machine's network with the control plane. Each further one has a network namespace of its
    own, as a machine of its own would, and can be cut off.
    """

    cluster: str
    run: Path
    number: int
    pod_cidr: str

    def own(self, part: str) -> str:
        """The name of the node's own part: `kubelet` on the first node, `kubelet2` on the second, and so on."""
        return part if self.number == 1 else f"{part}{self.number}"

    @property
    def name(self) -> str:
        """The name of the Node object."""
        return self.own(f"{self.cluster}-node")

    @property
    def group(self) -> str:
        """The name of its folder in the run folder, and of its cgroup in that of the cluster."""
        return self.own("node")

    @property
    def cgroup(self) -> str:
        """The cgroup below which its kubelet makes its own."""
        return f"{group_name(self.cluster)}/{self.group}"

    @property
    def folder(self) -> Path:
        """What its containerd and its kubelet keep."""
        return self.run / self.group

    @property
    def containerd_socket(self) -> Path:
        """containerd's gRPC socket."""
        return self.folder / "containerd.sock"

    @property
    def address(self) -> str:
        """Its address, which is also the gateway of its pods."""
        return str(next(ipaddress.ip_network(self.pod_cidr).hosts()))

    @property
    def zone(self) -> str:
        """The value of its zone label."""
        return zone(self.number)

    @property
    def namespace(self) -> Path | None:
        """The file on which its network namespace is mounted; None for the first node."""
        return None if self.number == 1 else self.run / f"{self.group}.netns"

    @property
    def link(self) -> str:
        """The machine's end of the pair of interfaces that joins a further node to it."""
        return link_name(self.cluster, self.number)


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
    workers: Workers

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes; each has a part of the pod range."""
        ranges = ipaddress.ip_network(self.pod_cidr).subnets(new_prefix=_NODE_PREFIX)
        parts = enumerate(islice(ranges, self.workers.count), start=1)
        return tuple(Node(self.name, self.run, number, str(part)) for number, part in parts)

    @property
    def bridge(self) -> str:
        """The network bridge of a node's pods: in the machine's network, and in the namespace of each further node."""
        return bridge_name(self.name)

    @property
    def cgroup(self) -> str:
        """The cgroup with all processes of the cluster."""
        return group_name(self.name)

    @property
    def network(self) -> str:
        """The CNI network; its name identifies this cluster's entries in the machine's CNI cache."""
        return group_name(self.name)

    @property
    def gateway(self) -> str:
        """The host's address on the bridge: of the API server, and of the first node."""
        return self.nodes[0].address

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
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for users and other programs."""
        return self.run / "kubeconfig"

    def to_json(self) -> dict[str, Any]:
        """Plain values for `from_json`."""
        return asdict(self) | {"run": str(self.run)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Layout:
        """The layout that `to_json` wrote; one without workers is of a version that knew only one node."""
        return cls(**(values | {"run": Path(values["run"]), "workers": Workers(**values.get("workers", {}))}))

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            ClusterError: there is none; the message lists the names.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise ClusterError(f"cluster '{self.name}' has no node '{name}', only {', '.join(n.name for n in self.nodes)}")


def bridge_name(name: str) -> str:
    """The bridge of the cluster of that name."""
    return f"br-{name}"


def link_name(name: str, number: int) -> str:
    """The machine's interface to a further node of the cluster of that name."""
    return f"n{number}-{name}"


def group_name(name: str) -> str:
    """The cgroup, and the CNI network, of the cluster of that name."""
    return f"sponge-{name}"


def check_name(name: str) -> str:
    """Returns the name if a bridge, a cgroup and a node can carry it.

    Raises:
        ClusterError: they cannot.
    """
    # A Linux interface name holds 15 bytes, three of which are "br-" or "n2-".
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
    longest_socket = run / f"node{MOST_WORKERS}" / "kubelet" / "pod-resources" / "kubelet.sock"
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

    pods = first_free(f"10.{second}.0.0/{_POD_PREFIX}" for second in range(244, 256))
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


def new_layout(name: str, routes: Iterable[str], workers: Workers) -> Layout:
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
        workers=workers,
    )
