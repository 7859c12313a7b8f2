"""Saves measured cells in a file beside the future profile, so that an interruption loses at most the current cell.

The file has one JSON object a line: first what is measured and how, then each visit to a cell as soon as it is done.
It belongs to one measurement: another model, machine or method is refused. Another grid is fine, because cells do not
depend on each other.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

from sponge_core.errors import ProfileError
from sponge_profiler.grid import GridCell, MeasuredCell
from sponge_profiles.timing import BatchTime

__all__ = ["Checkpoint"]

_FORMAT = 1


class Checkpoint:
    """The visits to cells so far; without a path they stay in memory."""

    def __init__(self, path: Path | None, file: IO[str] | None) -> None:
        """Internal; use `open`."""
        self.path = path
        self._file = file
        self._about: dict[str, str] = {}
        self._visits: dict[tuple[GridCell, int], MeasuredCell] = {}
        self.notes: dict[str, Any] = {}

    @classmethod
    def open(cls, path: Path | None, about: Mapping[str, str], restart: bool = False) -> Checkpoint:
        """Begins a measurement, or continues the one in the file.

        Args:
            path: of the file; None: keep the measurement in memory.
            about: the facts that every cell depends on (the model, the machine, ...), by name.
            restart: discard the contents of the file.

        Raises:
            ProfileError: the file is of another measurement, damaged, in use or cannot be written.
        """
        if path is None:
            return cls(None, None)
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise ProfileError(f"cannot write '{path}': {error.strerror}") from None
        checkpoint = cls(path, file)
        checkpoint._about = dict(about)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if restart:
                file.truncate(0)
            checkpoint._read()
        except BlockingIOError:
            file.close()
            raise ProfileError(f"'{path}' is in use: another measurement writes to it; wait for its end") from None
        except ProfileError:
            file.close()
            raise
        return checkpoint

    def __len__(self) -> int:
        return len(self._visits)

    @property
    def cells(self) -> set[GridCell]:
        """The cells with at least one visit."""
        return {cell for cell, _ in self._visits}

    def has(self, cell: GridCell, visit: int) -> bool:
        """Whether the `visit`-th visit to a cell is saved."""
        return (cell, visit) in self._visits

    def add(self, visit: int, measured: MeasuredCell) -> None:
        """Saves the `visit`-th visit to a cell; it is on disk when this returns."""
        self._visits[measured.cell, visit] = measured
        self._write(_visit_line(visit, measured))

    def note(self, name: str, value: Any) -> None:
        """Saves a fact about the whole measurement; any value that JSON can hold."""
        self.notes[name] = value
        self._write({"note": name, "value": value})

    def measured(self, cells: Collection[GridCell]) -> list[MeasuredCell]:
        """All visits to these cells, one entry for each cell with a visit."""
        found: dict[GridCell, MeasuredCell] = {}
        for (cell, _), measured in sorted(self._visits.items(), key=lambda item: item[0]):
            if cell in cells:
                found[cell] = found[cell].more(measured) if cell in found else measured
        return list(found.values())

    def forget(self, cells: Collection[GridCell]) -> None:
        """Removes these cells, so that they are measured again."""
        self._visits = {key: measured for key, measured in self._visits.items() if key[0] not in cells}
        if self._file is not None:
            self._file.truncate(0)
        self._write({"format": _FORMAT, "about": self._about})
        for name, value in self.notes.items():
            self._write({"note": name, "value": value})
        for (_, visit), measured in self._visits.items():
            self._write(_visit_line(visit, measured))

    def finish(self) -> None:
        """Deletes the file; the profile is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Closes the file and keeps it for a later run."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        text = self._file.read()
        lines = text.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):  # the last write was interrupted
            self._file.truncate(len(text.encode()) - len(lines.pop().encode()))
        if not lines:
            self._write({"format": _FORMAT, "about": self._about})
            return
        try:
            head, *rest = [json.loads(line) for line in lines]
            found = head["about"] if head["format"] == _FORMAT else {"its format": str(head["format"])}
            self._same(found)
            for line in rest:
                if "note" in line:
                    self.notes[line["note"]] = line["value"]
                else:
                    measured = _measured(line)
                    self._visits[measured.cell, line["visit"]] = measured
        except (ValueError, KeyError, TypeError):
            raise ProfileError(
                f"'{self.path}' holds no measurement that can be continued; use --restart to measure everything again"
            ) from None

    def _same(self, found: Mapping[str, str]) -> None:
        for name in [*found, *self._about]:
            was, now = found.get(name, "not known"), self._about.get(name, "not known")
            if was != now:
                raise ProfileError(
                    f"'{self.path}' holds a measurement of something else: {name} was {was}, now it is {now}; measure "
                    "what it was, write to another file, or use --restart to measure everything again"
                )


def _visit_line(visit: int, measured: MeasuredCell) -> dict[str, Any]:
    cell = measured.cell
    return {
        "cores": cell.cores,
        "batch": cell.batch,
        "lanes": cell.lanes,
        "visit": visit,
        "times": [[t.wall_s, t.cpu_s] for t in measured.times],
        "alone": [[t.wall_s, t.cpu_s] for t in measured.alone],
    }


def _measured(line: Mapping[str, Any]) -> MeasuredCell:
    times, alone = (tuple(BatchTime(float(w), float(c)) for w, c in line[name]) for name in ("times", "alone"))
    return MeasuredCell(GridCell(float(line["cores"]), int(line["batch"]), int(line["lanes"])), times, alone)
