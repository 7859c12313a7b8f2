"""The file of finished runs, one JSON line each with all parameters. A resumed campaign does not repeat them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.serving.systems.interface import REPOSITORY
from sponge_core.errors import SpongeError

__all__ = ["Ledger", "Run"]

Run = Mapping[str, Any]
"""One line: `kind`, `params`, `result`, and the time and machine of the measurement."""


class Ledger:
    """The runs of a file. Reads it once, then appends. Raises SpongeError for an unreadable line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: list[Run] = []
        for number, line in enumerate(_lines(path), 1):
            try:
                self._runs.append(_run(line))
            except ValueError as error:
                raise SpongeError(
                    f"{path}, line {number}: {error}, as when a run was cut off; delete the line"
                ) from None
        self._done = {_key(run["kind"], run["params"]): run for run in self._runs}

    def find(self, kind: str, params: Mapping[str, Any]) -> Run | None:
        """The run with exactly these parameters, or None."""
        return self._done.get(_key(kind, params))

    def of_kind(self, kind: str, **params: Any) -> list[Run]:
        """Every run of a kind whose parameters include the given ones, oldest first."""
        return [
            run
            for run in self._runs
            if run["kind"] == kind and all(run["params"].get(name) == value for name, value in params.items())
        ]

    def add(self, kind: str, params: Mapping[str, Any], result: Mapping[str, Any]) -> Run:
        """Appends a run and flushes it to disk."""
        run = {
            "kind": kind,
            "params": dict(params),
            "result": dict(result),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "torch": version("torch"),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as sink:
            sink.write(json.dumps(run) + "\n")
        self._runs.append(run)
        self._done[_key(kind, params)] = run
        return run


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SpongeError(f"{path}: {error.strerror}; it is the file of finished runs, so move it away") from None


def _run(line: bytes) -> Run:
    """Raises ValueError."""
    try:
        found = json.loads(line)
    except ValueError:
        raise ValueError("not JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        raise ValueError("not a run")
    if not isinstance(found.get("params"), dict) or not isinstance(found.get("result"), dict):
        raise ValueError("not a run")
    return found


def _key(kind: str, params: Mapping[str, Any]) -> str:
    return json.dumps([kind, params], sort_keys=True)


def _commit() -> str:
    done = subprocess.run(
        ("git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"), check=False, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"
