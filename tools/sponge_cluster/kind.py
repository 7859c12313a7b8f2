"""The kind backend, for machines with a Docker engine: composes `kind` and `kubectl` commands."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from sponge_cluster import binaries, images
from sponge_cluster.api import node_is_ready
from sponge_cluster.cluster import BackendName, Cluster, NodeAction, NodeStatus, Status
from sponge_cluster.errors import ClusterError
from sponge_cluster.host_python import host_mounts
from sponge_cluster.layout import folder
from sponge_cluster.packages import static_busybox
from sponge_cluster.processes import check
from sponge_cluster.progress import Progress
from sponge_cluster.state_file import ClusterState, read_state, write_state
from sponge_cluster.workers import ZONE_LABEL, Workers, zone

__all__ = [
    "HOST_ROOT",
    "KindBackend",
    "clients",
    "create_command",
    "delete_command",
    "kind_config",
    "load_command",
    "node_names",
]

HOST_ROOT = "/host"
"""The node has this machine's folders below this one, because it needs its own /usr."""

_WAIT_S = 180


def kind_config(mounts: Iterable[str], workers: Workers, machine_cores: int) -> str:
    """kind's cluster configuration; each node that runs pods has the host's folders below HOST_ROOT.

    Args:
        machine_cores: cores of the machine of the Docker engine, which every node reports.
    """
    extra = [{"hostPath": path, "containerPath": HOST_ROOT + path, "readOnly": True} for path in mounts]
    document: dict[str, Any] = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [
            {"role": role, "labels": {ZONE_LABEL: zone(number)}, "extraMounts": extra}
            for number, role in enumerate(_roles(workers), start=1)
        ],
    }
    if workers.count > 1:
        document["nodes"].insert(0, {"role": "control-plane"})
    if reserved := workers.system_reserved(machine_cores):
        patch = {"kind": "KubeletConfiguration", "systemReserved": reserved}
        document["kubeadmConfigPatches"] = [yaml.safe_dump(patch, sort_keys=False)]
    return yaml.safe_dump(document, sort_keys=False)


def _roles(workers: Workers) -> list[str]:
    """The roles of the nodes that run pods. The control plane does so only where it is alone."""
    return ["control-plane"] if workers.count == 1 else ["worker"] * workers.count


def node_names(name: str, workers: Workers) -> tuple[str, ...]:
    """The names that kind gives to the nodes that run pods: the second and later ones of a role have a number."""
    roles = enumerate(_roles(workers), start=1)
    return tuple(f"{name}-{role}{'' if number == 1 else number}" for number, role in roles)


def create_command(name: str, run: Path) -> list[str]:
    """Creates the cluster. Its kubeconfig goes into the run folder, not into the user's."""
    return [
        *("kind", "create", "cluster", "--name", name, "--config", str(run / "kind.yaml")),
        *("--kubeconfig", str(run / "kubeconfig"), "--wait", f"{_WAIT_S}s"),
    ]


def load_command(name: str, archive: Path) -> list[str]:
    """Puts an image archive on every node."""
    return ["kind", "load", "image-archive", str(archive), "--name", name]


def delete_command(name: str, run: Path) -> list[str]:
    """Deletes the cluster if it exists."""
    return ["kind", "delete", "cluster", "--name", name, "--kubeconfig", str(run / "kubeconfig")]


class KindBackend:
    """The kind backend. Needs a Docker engine that answers, and `kind`."""

    name: BackendName = "kind"

    def up(self, name: str, workers: Workers, progress: Progress) -> Cluster:
        """Creates the cluster. Deletes a broken one of that name first, if this command made it."""
        machine_cores = int(check(["docker", "info", "--format", "{{.NCPU}}"]))
        workers.check(machine_cores)
        run = folder(name)
        if read_state(run) is not None:
            progress.say("deleting a broken cluster")
            self.down(name, progress)
        elif name in check(["kind", "get", "clusters"]).split():
            raise ClusterError(f"a kind cluster '{name}' exists that this command did not make; choose another --name")
        mounts = host_mounts()
        begun = time.monotonic()
        state = {
            "backend": self.name,
            "mounts": mounts,
            "clients": clients(progress),
            "workers": workers.to_json(),
        }
        write_state(run, state)
        try:
            (run / "kind.yaml").write_text(kind_config(mounts, workers, machine_cores))
            with progress.busy("creating the cluster with kind"):
                check(create_command(name, run), timeout_s=_WAIT_S * 3.0)
            archive = run / "images.tar"
            images.write_archive(archive, _images(mounts))
            check(load_command(name, archive), timeout_s=_WAIT_S)
            archive.unlink()
        except BaseException:
            self.down(name, progress)
            raise
        progress.say(f"Ready after {time.monotonic() - begun:.1f} s")
        return self.connect(name)

    def connect(self, name: str) -> Cluster:
        """Returns the created cluster."""
        run = folder(name)
        state = _state(name)
        workers = Workers(**state.get("workers", {}))
        return Cluster(
            name=name,
            backend=self.name,
            kubeconfig=run / "kubeconfig",
            kubectl=Path(state["clients"]["kubectl"]),
            helm=Path(state["clients"]["helm"]),
            nodes=node_names(name, workers),
            workers=workers,
            host_mounts=tuple(state["mounts"]),
            host_root=HOST_ROOT,
        )

    def down(self, name: str, progress: Progress) -> None:
        """Deletes the cluster, if this command made it."""
        run = folder(name)
        if read_state(run) is None:
            return
        check(delete_command(name, run), timeout_s=_WAIT_S)
        shutil.rmtree(run)
        progress.say("deleted the cluster with kind")

    def status(self, name: str) -> Status:
        """Asks the API server for the nodes."""
        run = folder(name)
        cluster = self.connect(name)
        kubectl = [str(cluster.kubectl), "--kubeconfig", str(run / "kubeconfig"), "--request-timeout=3s"]
        try:
            found = json.loads(check([*kubectl, "get", "nodes", "-o", "json"]))["items"]
        except ClusterError:
            return Status(name, "stopped", ready=False, backend=self.name)
        found = [node for node in found if node["metadata"]["name"] in cluster.nodes]
        nodes = tuple(_node_status(node) for node in found)
        return Status(
            name,
            "running",
            ready=len(nodes) == len(cluster.nodes) and all(node.ready for node in nodes),
            backend=self.name,
            kubeconfig=str(cluster.kubeconfig),
            server=check([*kubectl, "config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]),
            node=cluster.node,
            nodes=nodes,
            versions={"kubernetes": found[0]["status"]["nodeInfo"]["kubeletVersion"]} if found else None,
        )

    def change_node(self, name: str, node: str, action: NodeAction, progress: Progress) -> None:  # noqa: ARG002
        """Raises ClusterError: a node is a container, and the Docker engine can do these things to it."""
        raise ClusterError(
            f"node {node} of cluster '{name}' is a container: use `docker kill {node}`, `docker start {node}` or "
            f"`docker network disconnect kind {node}` rather than `sponge cluster node {action}`"
        )


def _state(name: str) -> ClusterState:
    if (state := read_state(folder(name))) is None:
        raise ClusterError(f"no cluster '{name}' runs; start it with `sponge cluster up --name {name}`")
    return state


def _node_status(node: dict[str, Any]) -> NodeStatus:
    metadata = node["metadata"]
    addresses = {address["type"]: address["address"] for address in node["status"]["addresses"]}
    zone_of = metadata["labels"].get(ZONE_LABEL, "")
    return NodeStatus(metadata["name"], zone_of, addresses.get("InternalIP", ""), node_is_ready(node))


def clients(progress: Progress) -> dict[str, str]:
    """The user's kubectl and helm if both exist, else built ones."""
    own = {client: shutil.which(client) for client in binaries.CLIENTS}
    found = {client: path for client, path in own.items() if path}
    if len(found) == len(own):
        return found
    return {client: str(path) for client, path in binaries.MODULE.ensure(binaries.CLIENTS, progress).items()}


def _images(mounts: Iterable[str]) -> list[images.Image]:
    made = [images.python_image(mounts)]
    if busybox := static_busybox():
        made.append(images.busybox_image(busybox, check([str(busybox), "--list"]).split()))
    return made
