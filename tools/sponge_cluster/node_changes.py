"""What can happen to a node of a native cluster: it dies, its kubelet hangs, its network is lost; and the way back.

A dead node loses what a machine without power loses: its processes, their mounts, cgroups and sockets. It keeps its
disk: images, and what the kubelet knows of its pods.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping

from sponge_cluster import cgroups, cleanup, network, packages
from sponge_cluster.cluster import NodeAction
from sponge_cluster.daemons import find_daemons
from sponge_cluster.errors import ClusterError
from sponge_cluster.layout import Layout, Node
from sponge_cluster.processes import alive, send_signal
from sponge_cluster.progress import Progress
from sponge_cluster.start import wait_until_ready
from sponge_cluster.state_file import read_processes

__all__ = ["change_node"]


def change_node(layout: Layout, node: Node, action: NodeAction, progress: Progress) -> None:
    """Lets this happen to the node. What is the case already stays so.

    Raises:
        ClusterError: it cannot happen to this node.
    """
    _ACTIONS[action](layout, node, progress)


def _stop(layout: Layout, node: Node, progress: Progress) -> None:
    if node.namespace is not None:
        network.cut(layout, node)  # the others must not learn of its death by refused connections
    cgroups.end_members(layout.cgroup, [f"{cgroups.DAEMONS}/{node.group}", node.group], grace_s=0.0)
    sockets = cleanup.shim_sockets(node.folder)
    cleanup.unmount_below(node.folder)
    cgroups.remove(f"{node.cgroup}/kubepods")
    for socket in sockets:
        socket.unlink(missing_ok=True)
    if (state := node.folder / "containerd" / "state").exists():
        cleanup.remove_folder(state)
    progress.say(f"all processes of {node.name} have ended")


def _start(layout: Layout, node: Node, progress: Progress) -> None:
    if node.namespace is not None:
        network.heal(layout, node)
    daemons = find_daemons(layout, packages.find_programs(), progress)
    listed = read_processes(layout.run)
    dead = [name for name in daemons.of_group(node.group) if not alive(listed[name])]
    daemons.start(dead)
    if (kubelet := node.own("kubelet")) not in dead:
        send_signal(listed[kubelet], signal.SIGCONT)
    wait_until_ready(layout, node, daemons)
    progress.say(f"{node.name} is Ready")


def _pause(layout: Layout, node: Node, progress: Progress) -> None:
    _signal_kubelet(layout, node, signal.SIGSTOP)
    progress.say(f"the kubelet of {node.name} hangs")


def _resume(layout: Layout, node: Node, progress: Progress) -> None:
    _signal_kubelet(layout, node, signal.SIGCONT)
    progress.say(f"the kubelet of {node.name} goes on")


def _signal_kubelet(layout: Layout, node: Node, signum: signal.Signals) -> None:
    kubelet = read_processes(layout.run).get(node.own("kubelet"))
    if kubelet is None or not alive(kubelet):
        raise ClusterError(f"no kubelet runs on {node.name}; start it with `sponge cluster node start {node.name}`")
    send_signal(kubelet, signum)


def _cut(layout: Layout, node: Node, progress: Progress) -> None:
    if node.namespace is None:
        others = ", ".join(other.name for other in layout.nodes[1:]) or "none here: start a cluster with --workers 2"
        raise ClusterError(f"{node.name} shares its network with the control plane; nodes that can be cut: {others}")
    network.cut(layout, node)
    progress.say(f"{node.name} is off the network")


def _heal(layout: Layout, node: Node, progress: Progress) -> None:
    network.heal(layout, node)
    progress.say(f"{node.name} is on the network")


_ACTIONS: Mapping[NodeAction, Callable[[Layout, Node, Progress], None]] = {
    "stop": _stop,
    "start": _start,
    "pause": _pause,
    "resume": _resume,
    "cut": _cut,
    "heal": _heal,
}
