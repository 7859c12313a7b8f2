"""The start of a native cluster: from an empty run folder to Ready nodes."""

from __future__ import annotations

import os

from sponge_cluster import cgroups, config, images, network
from sponge_cluster.api import Api
from sponge_cluster.daemons import START_S, Daemons
from sponge_cluster.errors import ClusterError
from sponge_cluster.host_python import host_mounts
from sponge_cluster.layout import Layout, Node
from sponge_cluster.packages import SystemPrograms
from sponge_cluster.processes import check, wait_until
from sponge_cluster.progress import Progress
from sponge_cluster.state_file import read_state, write_state

__all__ = ["start", "wait_until_ready"]


def start(layout: Layout, daemons: Daemons, system: SystemPrograms, progress: Progress) -> None:
    """Starts all parts in their order, and waits until every node is Ready.

    Raises:
        ClusterError: one of them failed, or took too long.
    """
    _write_files(layout, system)
    network.write_sysctls(network.SYSCTLS)
    network.create_bridge(layout)
    cores = layout.workers.cores or float(_machine_cores())
    cgroups.create(layout.cgroup, {node.group: cores for node in layout.nodes})
    progress.say(f"created certificates, bridge {layout.bridge} ({layout.pod_cidr}), cgroup {layout.cgroup}")
    for node in layout.nodes[1:]:
        network.create_link(layout, node)
        progress.say(f"created network namespace {node.namespace} of {node.name}")

    containerds = [node.own("containerd") for node in layout.nodes]
    of_nodes = [name for node in layout.nodes for name in daemons.of_group(node.group)]
    daemons.start(["etcd", *containerds, "kube-apiserver"])
    _import_images(layout, daemons, system)
    progress.say(f"images imported: {images.BUSYBOX_IMAGE}, {images.PYTHON_IMAGE}")
    api = Api(layout.server, layout.pki)
    wait_until(api.ready, "the API server's start", timeout_s=START_S, guard=daemons.check)
    progress.say("API server is ready")

    others = [name for name in of_nodes if name not in containerds]
    daemons.start(["kube-controller-manager", "kube-scheduler", *others])
    write_state(layout.run, (read_state(layout.run) or {}) | {"daemons": len(daemons)})
    for node in layout.nodes:
        wait_until_ready(layout, node, daemons)
    wait_until(api.has_default_account, "its use", timeout_s=START_S, guard=daemons.check)
    # On a busy machine the first one may have been late with its report while the last one started.
    at_once = "that all nodes are Ready at once"
    wait_until(
        lambda: all(api.node_ready(n.name) for n in layout.nodes), at_once, timeout_s=START_S, guard=daemons.check
    )


def wait_until_ready(layout: Layout, node: Node, daemons: Daemons) -> None:
    """Waits until the API server reports that the node is Ready.

    Raises:
        ClusterError: it is not in time, or a daemon has ended.
    """
    api = Api(layout.server, layout.pki)
    what = f"that node {node.name} becomes Ready"
    wait_until(lambda: api.node_ready(node.name), what, timeout_s=START_S, guard=daemons.check)


def _machine_cores() -> int:
    return os.cpu_count() or 1


def _write_files(layout: Layout, system: SystemPrograms) -> None:
    # Only a start makes certificates, so only a start needs the package for them.
    try:
        from sponge_cluster.pki import write_pki
    except ImportError as error:
        raise ClusterError(f"{error.name} is not installed; run: pip install ./tools") from error

    for made in (layout.config, layout.logs):
        made.mkdir()
    write_pki(layout)
    # Pods have no name server: environment variables hold the addresses of Services.
    files = {"resolv.conf": "options timeout:1 attempts:1\n"}
    for client in ("controller-manager", "scheduler", "proxy"):
        files[f"{client}.kubeconfig"] = config.kubeconfig(layout, client)
    for node in layout.nodes:
        for made in (node.folder / "volume-plugins", node.folder / "pod-logs", layout.config / node.own("cni")):
            made.mkdir(parents=True)
        files |= _node_files(layout, node, system)
    for file, text in files.items():
        (layout.config / file).write_text(text)
    layout.kubeconfig.touch(mode=0o600)
    layout.kubeconfig.write_text(config.kubeconfig(layout, "admin", embed=True))


def _node_files(layout: Layout, node: Node, system: SystemPrograms) -> dict[str, str]:
    kubelet = node.own("kubelet")
    cni_bin = str(system.cni_bin)
    return {
        f"{node.own('containerd')}.toml": config.containerd_config(
            layout, node, pause_image=images.PAUSE_IMAGE, cni_bin=cni_bin
        ),
        f"{node.own('cni')}/10-pods.conflist": config.cni_conflist(layout, node),
        f"{kubelet}.yaml": config.kubelet_config(layout, node, _machine_cores()),
        f"{kubelet}.kubeconfig": config.kubeconfig(layout, kubelet),
        f"{node.own('kube-proxy')}.yaml": config.kube_proxy_config(layout, node),
    }


def _import_images(layout: Layout, daemons: Daemons, system: SystemPrograms) -> None:
    """Puts the images on every node."""
    archive = layout.run / "images.tar"
    applets = check([str(system.busybox), "--list"]).split()
    images.write_archive(archive, (images.busybox_image(system.busybox, applets), images.python_image(host_mounts())))
    for node in layout.nodes:
        socket = node.containerd_socket
        wait_until(socket.exists, f"containerd's start on {node.name}", timeout_s=START_S, guard=daemons.check)
        check([str(system.ctr), "--address", str(socket), "--namespace", "k8s.io", "images", "import", str(archive)])
    archive.unlink()
