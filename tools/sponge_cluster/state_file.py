"""The state file of a cluster: the backend that made it, its layout, and its processes.

Every write is atomic and comes before its content is needed. After a crash at any point, the next command can clean up.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sponge_cluster.processes import ProcessId

__all__ = ["ClusterState", "read_processes", "read_state", "write_processes", "write_state"]

ClusterState = dict[str, Any]
"""{"backend": ..., and the data of that backend}."""

_STATE, _PROCESSES = "cluster.json", "processes.json"


def read_state(run: Path) -> ClusterState | None:
    """Reads the state; None if there is none, or if its writer died before it was complete."""
    loaded = _load(run / _STATE)
    return loaded if isinstance(loaded, dict) else None


def write_state(run: Path, state: ClusterState) -> None:
    """Writes the state; creates the run folder if needed."""
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    _store(run / _STATE, state)


def read_processes(run: Path) -> dict[str, ProcessId]:
    """Reads the daemons by name, in the order of their start."""
    loaded = _load(run / _PROCESSES) or {}
    return {name: ProcessId(**values) for name, values in loaded.items()}


def write_processes(run: Path, processes: dict[str, ProcessId]) -> None:
    """Writes the identities of the daemons."""
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
