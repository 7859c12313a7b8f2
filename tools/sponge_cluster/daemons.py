"""Starts the daemons of a native cluster, and keeps the state file's list of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sponge_cluster import binaries, cgroups, packages
from sponge_cluster.components import Component, components
from sponge_cluster.errors import ClusterError
from sponge_cluster.layout import Layout
from sponge_cluster.packages import SystemPrograms
from sponge_cluster.processes import ProcessId, alive, spawn, tail
from sponge_cluster.progress import Progress
from sponge_cluster.state_file import read_processes, write_processes

__all__ = ["START_S", "Daemons", "find_daemons"]

START_S = 90.0
"""Limit of each wait of a start, in seconds. It takes seconds on an idle machine, tens of seconds on a busy one."""


class Daemons:
    """The daemons of one cluster: those that the state file lists, and those that are started here."""

    def __init__(self, layout: Layout, known: Mapping[str, Component]) -> None:
        self._layout, self._known = layout, known
        self._started: set[str] = set()

    def __len__(self) -> int:
        """How many daemons the whole cluster has."""
        return len(self._known)

    def of_group(self, group: str) -> list[str]:
        """The names of a group's daemons, in the order of their start."""
        return [component.name for component in self._known.values() if component.group == group]

    def start(self, names: Iterable[str]) -> None:
        """Starts daemons, and records each one before the next starts.

        Raises:
            ClusterError: one cannot start, or ended at once.
        """
        for name in names:
            component = self._known[name]
            process = spawn(
                component.argv,
                log=self._layout.logs / f"{name}.log",
                env=packages.daemon_environment(),
                cwd=self._layout.run,
            )
            write_processes(self._layout.run, read_processes(self._layout.run) | {name: process})
            cgroups.join_daemons(self._layout.cgroup, component.group, process)
            self._started.add(name)

    def check(self) -> None:
        """Raises ClusterError if a daemon that was started here has ended."""
        listed: dict[str, ProcessId] = read_processes(self._layout.run)
        for name in self._started:
            if not alive(listed[name]):
                raise ClusterError(f"{name} ended: {tail(self._layout.logs / f'{name}.log')}")


def find_daemons(layout: Layout, system: SystemPrograms, progress: Progress) -> Daemons:
    """The daemons of a cluster, with the programs of this machine; builds those that are missing."""
    programs: dict[str, Path] = binaries.MODULE.ensure(list(binaries.MODULE.programs), progress)
    return Daemons(layout, components(layout, programs | {"containerd": system.containerd}))
