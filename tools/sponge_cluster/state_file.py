"""What a cluster's run folder remembers: which backend made it, how it is laid out, which processes are its own.

Every write is atomic, and happens before the thing it speaks of can be needed again: after a crash at any point the
next command finds enough to clean up.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sponge_cluster.processes import ProcessId

__all__ = ["ClusterState", "read_processes", "read_state", "write_processes", "write_state"]

ClusterState = dict[str, Any]
"""{"backend": ..., and what that backend wants to find again}."""

_STATE, _PROCESSES = "cluster.json", "processes.json"


def read_state(run: Path) -> ClusterState | None:
    """The cluster's state, or None where there is none or its writer died before finishing it."""
    loaded = _load(run / _STATE)
    return loaded if isinstance(loaded, dict) else None


def write_state(run: Path, state: ClusterState) -> None:
    """Keeps the state, making the run folder where needed."""
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    _store(run / _STATE, state)


def read_processes(run: Path) -> dict[str, ProcessId]:
    """The daemons that were started, in that order, by name."""
    loaded = _load(run / _PROCESSES) or {}
    return {name: ProcessId(**values) for name, values in loaded.items()}


def write_processes(run: Path, processes: dict[str, ProcessId]) -> None:
    """Keeps the daemons' identities."""
    values = {name: {"pid": process.pid, "started": process.started} for name, process in processes.items()}
    _store(run / _PROCESSES, values)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _store(path: Path, values: dict[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(values, indent=2))
    fresh.rename(path)
