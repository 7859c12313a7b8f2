"""The checkpoint of a measurement: what survives an interruption, and which mixtures are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sponge_core.errors import ProfileError
from sponge_profiler.checkpoint import Checkpoint
from sponge_profiler.grid import GridCell, MeasuredCell, grid_cells
from sponge_profiler.grid_run import VISITS, rounds_left, run_grid
from sponge_profiles.timing import BatchTime

ABOUT = {"the model": "digits://", "the machine": "this one"}
ONE, TWO = (
    MeasuredCell(GridCell(1.0, batch, lanes), (BatchTime(0.1, 0.09),), (BatchTime(0.05, 0.04),)[: lanes - 1])
    for batch, lanes in ((1, 1), (2, 2))
)


class MachineGoneError(Exception):
    pass


class Machine:
    """Runs so many batches and is then interrupted."""

    def __init__(self, batches: int = 10**6) -> None:
        self.left = batches
        self.sizes: list[float] = []

    async def set_cores(self, cores: float) -> None:
        self.sizes.append(cores)

    async def run(self, batch: int, threads: int) -> BatchTime:
        if self.left == 0:
            raise MachineGoneError
        self.left -= 1
        return BatchTime(0.01 * batch, 0.01 * batch)


def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tmp_path / "p.part", ABOUT)
    checkpoint.add(0, ONE)
    checkpoint.add(1, ONE)
    checkpoint.add(0, TWO)
    checkpoint.note("memory", {"base_mib": 12.5})
    checkpoint.close()
    again = Checkpoint.open(tmp_path / "p.part", ABOUT)
    assert len(again) == 3
    assert again.has(ONE.cell, 1)
    assert not again.has(TWO.cell, 1)
    assert again.measured([ONE.cell, TWO.cell]) == [ONE.more(ONE), TWO]
    assert again.measured([TWO.cell]) == [TWO]
    assert again.notes == {"memory": {"base_mib": 12.5}}
    again.finish()
    assert not (tmp_path / "p.part").exists()


def test_a_line_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "p.part"
    checkpoint = Checkpoint.open(path, ABOUT)
    checkpoint.add(0, ONE)
    checkpoint.add(0, TWO)
    checkpoint.close()
    path.write_bytes(path.read_bytes()[:-20])
    again = Checkpoint.open(path, ABOUT)
    assert again.cells == {ONE.cell}
    again.add(0, TWO)
    again.close()
    assert Checkpoint.open(path, ABOUT).cells == {ONE.cell, TWO.cell}


def test_what_is_forgotten_is_gone_from_the_file_too(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tmp_path / "p.part", ABOUT)
    checkpoint.note("platform", "p")
    checkpoint.add(0, ONE)
    checkpoint.add(0, TWO)
    checkpoint.forget([ONE.cell])
    checkpoint.close()
    again = Checkpoint.open(tmp_path / "p.part", ABOUT)
    assert (again.cells, again.notes) == ({TWO.cell}, {"platform": "p"})


@pytest.mark.parametrize(
    ("text", "about", "message"),
    [
        (None, {**ABOUT, "the model": "file://m"}, "the model was digits://, now it is file://m; .*--restart"),
        (None, {**ABOUT, "--repeat": "5"}, "--repeat was not known, now it is 5"),
        ("not json\n", ABOUT, "no measurement that can be continued; use --restart"),
        ('{"format": 1}\n', ABOUT, "no measurement that can be continued"),
        ('{"format": 99, "about": {}}\n', ABOUT, "its format was 99"),
    ],
)
def test_another_measurement_is_refused(tmp_path: Path, text: str | None, about: dict[str, str], message: str) -> None:
    path = tmp_path / "p.part"
    checkpoint = Checkpoint.open(path, ABOUT)
    checkpoint.add(0, ONE)
    checkpoint.close()
    if text is not None:
        path.write_text(text)
    with pytest.raises(ProfileError, match=message):
        Checkpoint.open(path, about)
    assert len(Checkpoint.open(path, about, restart=True)) == 0


def test_two_at_once_are_refused_and_so_is_a_place_that_is_not_there(tmp_path: Path) -> None:
    first = Checkpoint.open(tmp_path / "p.part", ABOUT)
    with pytest.raises(ProfileError, match="in use"):
        Checkpoint.open(tmp_path / "p.part", ABOUT, restart=True)
    first.close()
    with pytest.raises(ProfileError, match="cannot write"):
        Checkpoint.open(tmp_path / "missing" / "p.part", ABOUT)


async def test_an_interrupted_measurement_goes_on_and_runs_nothing_twice(tmp_path: Path) -> None:
    cells = grid_cells([1, 2], [1, 2])
    uninterrupted = Machine()
    whole = Checkpoint.open(None, ABOUT)
    await run_grid(uninterrupted.run, uninterrupted.set_cores, cells, 5, whole)
    assert {len(m.times) for m in whole.measured(cells) if m.cell.lanes == 1} == {5}
    assert len(whole) == VISITS * len(cells)

    first = Machine(batches=30)
    checkpoint = Checkpoint.open(tmp_path / "p.part", ABOUT)
    with pytest.raises(MachineGoneError):
        await run_grid(first.run, first.set_cores, cells, 5, checkpoint)
    done = len(checkpoint)
    checkpoint.close()
    assert 0 < done < VISITS * len(cells)

    checkpoint, second = Checkpoint.open(tmp_path / "p.part", ABOUT), Machine()
    left = rounds_left(cells, 5, checkpoint)
    rounds: list[GridCell] = []
    await run_grid(second.run, second.set_cores, cells, 5, checkpoint, rounds.append)
    assert len(rounds) == left
    assert checkpoint.measured(cells) == whole.measured(cells)

    nothing = Machine(batches=0)
    await run_grid(nothing.run, nothing.set_cores, cells, 5, checkpoint)
    assert nothing.sizes == []


async def test_the_limit_changes_only_where_the_next_cell_asks_for_another() -> None:
    machine = Machine()
    await run_grid(machine.run, machine.set_cores, grid_cells([0.5, 1, 2], [1, 2]), 4, Checkpoint.open(None, ABOUT))
    assert machine.sizes == [0.5, 1, 2] * VISITS
