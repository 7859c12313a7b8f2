"""The native backend: a real one-node Kubernetes as plain processes of this machine; no Docker, no registry.

Starts the parts in order and removes everything at the end, also after a crash: the state file identifies the
processes, and the cluster's own cgroup finds those that it lacks. `config` has the contents of files, `components` the
command lines.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from sponge_cluster import binaries, cgroups, cleanup, config, images, network, packages
from sponge_cluster.api import Api
from sponge_cluster.cluster import BackendName, Cluster, Process, Status
from sponge_cluster.components import components
from sponge_cluster.errors import ClusterError
from sponge_cluster.host_python import host_mounts
from sponge_cluster.layout import Layout, bridge_name, clusters_folder, folder, group_name, new_layout
from sponge_cluster.processes import ProcessId, alive, check, spawn, stop, tail, wait_until
from sponge_cluster.progress import Progress
from sponge_cluster.state_file import read_processes, read_state, write_processes, write_state

__all__ = ["NativeBackend"]

_START_S = 90.0
"""Limit of each wait of the start. A wait takes seconds on an idle machine, tens of seconds on a busy one."""


class NativeBackend:
    """The native backend. Needs root and Linux."""

    name: BackendName = "native"

    def up(self, name: str, progress: Progress) -> Cluster:
        """Starts the cluster; cleans up first after one that crashed."""
        if os.geteuid() != 0:
            raise ClusterError(
                "the native cluster needs root (cgroups, mounts, a bridge): use sudo, or install Docker and kind"
            )
        packages.install_missing(progress)
        programs = binaries.ensure(list(binaries.PROGRAMS), progress)
        system = packages.find_programs()
        if _left_over(name):
            progress.say("cleaning up after a cluster that crashed")
            self.down(name, progress)
        _refuse_strangers(name)

        begun = time.monotonic()
        layout = new_layout(name, network.routes())
        state = {
            "backend": self.name,
            "layout": layout.to_json(),
            "sysctls": network.read_sysctls(),
            "clients": {client: str(programs[client]) for client in binaries.CLIENTS},
            "versions": binaries.versions(),
        }
        write_state(layout.run, state)
        try:
            _Start(layout, programs, system, progress).run()
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
        run = folder(name)
        state = read_state(run)
        if state is None:
            raise ClusterError(f"no cluster '{name}' runs; start it with `sponge cluster up --name {name}`")
        layout = Layout.from_json(state["layout"])
        return Cluster(
            name=name,
            backend=self.name,
            kubeconfig=layout.kubeconfig,
            kubectl=Path(state["clients"]["kubectl"]),
            helm=Path(state["clients"]["helm"]),
            node=layout.node,
            host_mounts=host_mounts(),
        )

    def down(self, name: str, progress: Progress) -> None:
        """Stops and removes everything that still exists."""
        run, group = folder(name), group_name(name)
        if not _left_over(name):
            return
        if os.geteuid() != 0:
            raise ClusterError("stopping the native cluster needs root: use sudo")
        processes = read_processes(run)

        def end(names: Sequence[str], grace_s: float) -> None:
            stop([processes[n] for n in names if n in processes], grace_s)

        # First the processes that would start others again, then the pods, then the services of the pods.
        end(["kube-scheduler", "kube-controller-manager", "kubelet", "kube-proxy"], grace_s=3.0)
        _end_members(group, "kubepods", grace_s=3.0)
        end(["kube-apiserver"], grace_s=2.0)
        end(["etcd", "containerd"], grace_s=3.0)
        sockets = cleanup.shim_sockets(run)
        _end_members(group, "", grace_s=0.0)
        progress.say("all processes have ended")

        cleanup.unmount_below(run)
        cgroups.remove(group)
        network.remove_bridge(bridge_name(name))
        if cleanup.foreign_daemon("kube-proxy", "net", ()) is None:
            network.remove_chains()
        if (state := read_state(run)) is not None:
            network.write_sysctls(state["sysctls"])
        cleanup.remove_outside(run, group, sockets)
        if run.exists():
            cleanup.remove_run_folder(run)
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
        return Status(
            name,
            "running" if whole else "degraded",
            ready=whole and Api(layout.server, layout.pki).node_ready(layout.node),
            backend=self.name,
            kubeconfig=str(layout.kubeconfig),
            server=layout.server,
            node=layout.node,
            versions=state["versions"],
            processes=listed,
        )


def _left_over(name: str) -> bool:
    return folder(name).exists() or any((top / group_name(name)).exists() for top in cgroups.hierarchies())


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


def _end_members(group: str, below: str, grace_s: float) -> None:
    """Stops every process in a cgroup. Repeats while new ones appear: a process may fork before its signal comes."""
    while found := cgroups.members(group, below):
        stop(found, grace_s)
        grace_s = 0.0


def _keep_logs(layout: Layout) -> Path:
    kept = clusters_folder() / f"{layout.name}-failed-logs"
    shutil.rmtree(kept, ignore_errors=True)
    if layout.logs.exists():
        shutil.copytree(layout.logs, kept)
    return kept


class _Start:
    """One start, from an empty run folder to a Ready node."""

    def __init__(
        self, layout: Layout, programs: dict[str, Path], system: packages.SystemPrograms, progress: Progress
    ) -> None:
        self._layout, self._system, self._progress = layout, system, progress
        self._components = components(layout, programs | {"containerd": system.containerd})
        self._processes: dict[str, ProcessId] = {}

    def run(self) -> None:
        layout = self._layout
        self._write_files()
        network.write_sysctls(network.SYSCTLS)
        network.create_bridge(layout)
        cgroups.create(layout.cgroup)
        self._progress.say(f"created certificates, bridge {layout.bridge} ({layout.pod_cidr}), cgroup {layout.cgroup}")

        for name in ("etcd", "containerd", "kube-apiserver"):
            self._spawn(name)
        self._import_images()
        api = Api(layout.server, layout.pki)
        wait_until(api.ready, "the API server's start", timeout_s=_START_S, guard=self._check_daemons)
        self._progress.say("API server is ready")

        for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"):
            self._spawn(name)
        state = read_state(layout.run) or {}
        write_state(layout.run, state | {"daemons": len(self._processes)})
        waits = (
            (lambda: api.node_ready(layout.node), "the node's getting Ready"),
            (api.has_default_account, "its use"),
        )
        for condition, what in waits:
            wait_until(condition, what, timeout_s=_START_S, guard=self._check_daemons)

    def _write_files(self) -> None:
        # Only a start makes certificates, so only a start needs the package for them.
        try:
            from sponge_cluster.pki import write_pki
        except ImportError as error:
            raise ClusterError(f"{error.name} is not installed; run: pip install ./tools") from error

        layout = self._layout
        for made in (layout.config / "cni", layout.logs, layout.run / "volume-plugins", layout.run / "pod-logs"):
            made.mkdir(parents=True)
        write_pki(layout)
        files = {
            "containerd.toml": config.containerd_config(
                layout, pause_image=images.PAUSE_IMAGE, cni_bin=str(self._system.cni_bin)
            ),
            "cni/10-pods.conflist": config.cni_conflist(layout),
            "kubelet.yaml": config.kubelet_config(layout),
            "kube-proxy.yaml": config.kube_proxy_config(layout),
            # Pods have no name server: environment variables hold the addresses of Services.
            "resolv.conf": "options timeout:1 attempts:1\n",
        }
        for client in ("controller-manager", "scheduler", "kubelet", "proxy"):
            files[f"{client}.kubeconfig"] = config.kubeconfig(layout, client)
        for file, text in files.items():
            (layout.config / file).write_text(text)
        layout.kubeconfig.touch(mode=0o600)
        layout.kubeconfig.write_text(config.kubeconfig(layout, "admin", embed=True))

    def _import_images(self) -> None:
        layout, system = self._layout, self._system
        archive = layout.run / "images.tar"
        applets = check([str(system.busybox), "--list"]).split()
        made = images.busybox_image(system.busybox, applets), images.python_image(host_mounts())
        images.write_archive(archive, made)
        ctr = [str(system.ctr), "--address", str(layout.containerd_socket), "--namespace", "k8s.io"]
        wait_until(layout.containerd_socket.exists, "containerd's start", timeout_s=_START_S, guard=self._check_daemons)
        check([*ctr, "images", "import", str(archive)])
        archive.unlink()
        self._progress.say(f"images imported: {images.BUSYBOX_IMAGE}, {images.PYTHON_IMAGE}")

    def _spawn(self, name: str) -> None:
        layout = self._layout
        process = spawn(
            self._components[name].argv,
            log=layout.logs / f"{name}.log",
            env=packages.daemon_environment(),
            cwd=layout.run,
        )
        self._processes[name] = process
        write_processes(layout.run, self._processes)
        cgroups.join_daemons(layout.cgroup, process)

    def _check_daemons(self) -> None:
        for name, process in self._processes.items():
            if not alive(process):
                raise ClusterError(f"{name} ended: {tail(self._layout.logs / f'{name}.log')}")
