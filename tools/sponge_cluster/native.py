"""The native backend: a real Kubernetes as plain processes of this machine; no Docker, no registry.

`start` starts the parts in order. Here everything is removed at the end, also after a crash: the state file identifies
the processes, and the cluster's own cgroup finds those that it lacks. `config` has the contents of files, `components`
the command lines, `node_changes` what can happen to a node.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from string import digits

from sponge_cluster import binaries, cgroups, cleanup, network, packages
from sponge_cluster.api import Api
from sponge_cluster.cluster import BackendName, Cluster, NodeAction, NodeStatus, Process, Status
from sponge_cluster.daemons import find_daemons
from sponge_cluster.errors import ClusterError
from sponge_cluster.host_python import host_mounts
from sponge_cluster.layout import Layout, bridge_name, clusters_folder, folder, group_name, new_layout
from sponge_cluster.node_changes import change_node
from sponge_cluster.processes import alive, stop
from sponge_cluster.progress import Progress
from sponge_cluster.start import start
from sponge_cluster.state_file import ClusterState, read_processes, read_state, write_state
from sponge_cluster.workers import Workers

__all__ = ["NativeBackend"]


class NativeBackend:
    """The native backend. Needs root and Linux."""

    name: BackendName = "native"

    def up(self, name: str, workers: Workers, progress: Progress) -> Cluster:
        """Starts the cluster; cleans up first after one that crashed."""
        if os.geteuid() != 0:
            raise ClusterError(
                "the native cluster needs root (cgroups, mounts, a bridge): use sudo, or install Docker and kind"
            )
        workers.check(os.cpu_count() or 1)
        _refuse_other_network(name)
        packages.install_missing(progress)
        programs = binaries.MODULE.ensure(list(binaries.MODULE.programs), progress)
        system = packages.find_programs()
        if _left_over(name):
            progress.say("cleaning up after a cluster that crashed")
            self.down(name, progress)
        _refuse_strangers(name)

        begun = time.monotonic()
        layout = new_layout(name, network.routes(), workers)
        daemons = find_daemons(layout, system, progress)
        state = {
            "backend": self.name,
            "layout": layout.to_json(),
            "sysctls": network.read_sysctls(),
            "clients": {client: str(programs[client]) for client in binaries.CLIENTS},
            "versions": binaries.versions(),
        }
        write_state(layout.run, state)
        try:
            start(layout, daemons, system, progress)
        except BaseException as error:
            kept = _keep_logs(layout) if isinstance(error, ClusterError) else None
            progress.say("stopping, and removing everything")
            self.down(name, progress)
            if isinstance(error, ClusterError):
                raise ClusterError(f"{error}; the logs are kept in {kept}") from error
            raise
        progress.say(f"Ready after {time.monotonic() - begun:.1f} s, {layout.server}")
        return self.connect(name)

    def connect(self, name: str) -> Cluster:
        """Returns the running cluster."""
        layout, state = self._layout(name)
        return Cluster(
            name=name,
            backend=self.name,
            kubeconfig=layout.kubeconfig,
            kubectl=Path(state["clients"]["kubectl"]),
            helm=Path(state["clients"]["helm"]),
            nodes=tuple(node.name for node in layout.nodes),
            workers=layout.workers,
            host_mounts=host_mounts(),
        )

    def _layout(self, name: str) -> tuple[Layout, ClusterState]:
        state = read_state(folder(name))
        if state is None:
            raise ClusterError(f"no cluster '{name}' runs; start it with `sponge cluster up --name {name}`")
        return Layout.from_json(state["layout"]), state

    def down(self, name: str, progress: Progress) -> None:
        """Stops and removes everything that still exists."""
        run, group = folder(name), group_name(name)
        if not _left_over(name):
            return
        if os.geteuid() != 0:
            raise ClusterError("stopping the native cluster needs root: use sudo")
        # cgroups have no namespaces that hide those of another user's cluster, or of one in another network.
        if (other := cleanup.other_folder(run, cgroups.members(group, [cgroups.DAEMONS]))) is not None:
            raise ClusterError(f"a cluster '{name}' of {other} runs on this machine; choose another --name")
        processes = read_processes(run)

        def end(*programs: str, grace_s: float) -> None:
            # The daemons of a further node have its number at the end of their names.
            stop([process for n, process in processes.items() if n.rstrip(digits) in programs], grace_s)

        # First the processes that would start others again, then the pods, then the services of the pods.
        end("kube-scheduler", "kube-controller-manager", "kubelet", "kube-proxy", grace_s=3.0)
        cgroups.end_members(group, cgroups.node_groups(group), grace_s=3.0)
        end("kube-apiserver", grace_s=2.0)
        end("etcd", "containerd", grace_s=3.0)
        sockets = [socket for node in run.glob("node*") for socket in cleanup.shim_sockets(node)]
        cgroups.end_members(group, [""], grace_s=0.0)
        progress.say("all processes have ended")

        cleanup.unmount_below(run)
        cgroups.remove(group)
        network.remove_interfaces(name)
        if cleanup.foreign_daemon("kube-proxy", "net", ()) is None:
            network.remove_chains()
        if (state := read_state(run)) is not None:
            network.write_sysctls(state["sysctls"])
        cleanup.remove_outside(run, group, sockets)
        if run.exists():
            cleanup.remove_folder(run)
        progress.say("removed network, cgroups, mounts and files")

    def status(self, name: str) -> Status:
        """Checks the processes of the state file and asks the API server for the node."""
        run = folder(name)
        state = read_state(run)
        listed = tuple(Process(n, p.pid, alive(p)) for n, p in read_processes(run).items())
        if state is None or not any(p.running for p in listed):
            return Status(name, "stopped", ready=False)
        layout = Layout.from_json(state["layout"])
        whole = len(listed) == state.get("daemons") and all(p.running for p in listed)
        api = Api(layout.server, layout.pki)
        nodes = tuple(NodeStatus(n.name, n.zone, n.address, api.node_ready(n.name)) for n in layout.nodes)
        return Status(
            name,
            "running" if whole else "degraded",
            ready=whole and all(node.ready for node in nodes),
            backend=self.name,
            kubeconfig=str(layout.kubeconfig),
            server=layout.server,
            node=nodes[0].name,
            nodes=nodes,
            versions=state["versions"],
            processes=listed,
        )

    def change_node(self, name: str, node: str, action: NodeAction, progress: Progress) -> None:
        """Lets something happen to a node; `node_changes` says what."""
        if os.geteuid() != 0:
            raise ClusterError("a node of the native cluster belongs to root: use sudo")
        layout, _ = self._layout(name)
        change_node(layout, layout.node(node), action, progress)


def _left_over(name: str) -> bool:
    return folder(name).exists() or any((top / group_name(name)).exists() for top in cgroups.hierarchies())


def _refuse_other_network(name: str) -> None:
    """Raises ClusterError if the cluster runs where we cannot reach it: to us it looks like one that crashed."""
    server = read_processes(folder(name)).get("kube-apiserver")
    if server is not None and cleanup.in_other_network(server):
        raise ClusterError(
            f"cluster '{name}' runs in another network namespace (pid {server.pid}), perhaps for tests; wait for "
            f"them, choose another --name, or end it with `sponge cluster down --name {name}`"
        )


def _refuse_strangers(name: str) -> None:
    """Raises ClusterError if a native cluster and something on this machine would interfere."""
    for daemon, namespace in (("kube-proxy", "net"), ("kubelet", "mnt")):
        if (pid := cleanup.foreign_daemon(daemon, namespace, ())) is None:
            continue
        runs = (run for run in clusters_folder().iterdir() if run.is_dir())
        ours = [run.name for run in runs if pid in {p.pid for p in read_processes(run).values()}]
        cure = f"it is cluster '{ours[0]}': `sponge cluster down --name {ours[0]}`" if ours else "stop that cluster"
        raise ClusterError(
            f"another {daemon} (pid {pid}) runs on this machine, and two of them would interfere; {cure} first"
        )
    if network.has_interface(bridge_name(name)):
        raise ClusterError(f"a network interface {bridge_name(name)} exists already; choose another --name")


def _keep_logs(layout: Layout) -> Path:
    kept = clusters_folder() / f"{layout.name}-failed-logs"
    shutil.rmtree(kept, ignore_errors=True)
    if layout.logs.exists():
        shutil.copytree(layout.logs, kept)
    return kept
