"""Rows of several sizes in `sponge profile`: what runs, what the checkpoint keeps, and the profile of a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import sponge

from sponge_core.errors import ProfileError
from sponge_core.latency import LatencyModel, SizeCurve
from sponge_profiler.checkpoint import Checkpoint
from sponge_profiler.grid import GridCell, grid_cells, profile_of
from sponge_profiler.grid_run import run_grid
from sponge_profiler.row_sizes import (
    DeclaredSizes,
    measure_row_sizes,
    sized_batches_left,
    sizes_left,
    with_measured_sizes,
)
from sponge_profiles.profile import Profile, load_profile
from sponge_profiles.timing import BatchTime

TEXTS = LatencyModel(1.0, 0.0, 0.44e-3, 8.8e-3, sizes=SizeCurve((0.0, 0.212e-3, 0.267e-6), (0.0, 0.0, 0.0)))
DECLARED = DeclaredSizes(sizes=(8, 21, 57, 150, 400), reference=57, join="padded")
CELLS = grid_cells([1, 2], [1, 2, 8])
ABOUT = {"the model": "texts"}


class Machine:
    """Runs batches in virtual time, and counts them."""

    def __init__(self) -> None:
        self.cores: list[float] = []
        self.sized: list[tuple[int, int, int]] = []

    async def run(self, batch: int, threads: int, size: int | None = None, /) -> BatchTime:
        if size is not None:
            self.sized.append((batch, threads, size))
        seconds = TEXTS.at(size or DECLARED.reference).latency(batch, threads)
        return BatchTime(seconds, seconds * threads)

    async def set_cores(self, cores: float) -> None:
        self.cores.append(cores)


async def measure(
    checkpoint: Checkpoint, cells: list[GridCell] = CELLS, declared: DeclaredSizes | None = DECLARED
) -> Machine:
    machine, ticks = Machine(), 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    announced = sized_batches_left(cells, declared, checkpoint)
    await measure_row_sizes(machine.run, machine.set_cores, cells, declared, checkpoint, tick)
    assert ticks == announced == len(machine.sized)
    assert not sizes_left(cells, checkpoint)
    return machine


async def grid_profile(checkpoint: Checkpoint) -> Profile:
    machine = Machine()
    await run_grid(machine.run, machine.set_cores, CELLS, 4, checkpoint)
    measured = checkpoint.measured(CELLS)
    return profile_of(measured, name="texts", model="texts", source="virtual", machine="none", percentile=95)


async def test_the_profile_predicts_sizes_between_the_measured_ones() -> None:
    checkpoint = Checkpoint.open(None, ABOUT)
    machine = await measure(checkpoint)
    assert {(threads, size) for _, threads, size in machine.sized} == {(k, s) for k in (1, 2) for s in DECLARED.sizes}
    assert machine.cores == [2.0]
    profile = with_measured_sizes(await grid_profile(checkpoint), checkpoint)
    assert profile.fitted_percentile == 50
    for size, batch, threads in ((16.0, 1, 1), (256.0, 1, 2), (100.0, 8, 1)):
        real = TEXTS.at(size).latency(batch, threads)
        assert profile.latency_model().at(size).latency(batch, threads) == pytest.approx(real, rel=0.1)


async def test_an_interrupted_measurement_keeps_the_sizes(tmp_path: Path) -> None:
    path = tmp_path / "texts.yaml.part"
    first = Checkpoint.open(path, ABOUT)
    assert (await measure(first)).sized
    first.close()
    again = Checkpoint.open(path, ABOUT)
    assert not (await measure(again)).sized
    profile = await grid_profile(again)
    assert with_measured_sizes(profile, again).sized_points
    # Another grid has other threads or batches, so its sizes are measured anew.
    assert (await measure(again, grid_cells([1], [1, 2]))).sized
    again.close()


async def test_a_model_whose_rows_are_equal_has_no_sizes() -> None:
    checkpoint = Checkpoint.open(None, ABOUT)
    assert sizes_left(CELLS, checkpoint)
    assert not (await measure(checkpoint, declared=None)).sized
    profile = await grid_profile(checkpoint)
    assert with_measured_sizes(profile, checkpoint) is profile
    assert profile.fitted_percentile == 95


async def test_sizes_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tmp_path / "texts.yaml.part", ABOUT)
    profile = await grid_profile(checkpoint)
    checkpoint.note("sizes", {"points": "many"})
    with pytest.raises(ProfileError, match="use --restart to measure everything again"):
        with_measured_sizes(profile, checkpoint)
    checkpoint.close()


MODEL = """
import numpy as np
from sponge_server.model import Input, Model, Output, RowSize


class Sums(Model):
    inputs = (Input("ids", "INT64", (-1,)),)
    outputs = (Output("sum", "FP32", (1,)),)
    size = RowSize("ids", least=1_000, most=100_000, pad=0)

    def predict(self, inputs):
        return {"sum": np.sqrt(np.exp(np.sin(inputs["ids"]))).sum(1, keepdims=True).astype(np.float32)}
"""


@pytest.mark.torch
def test_a_real_model_is_measured_over_its_sizes(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(MODEL)
    file, plot = tmp_path / "sums.yaml", tmp_path / "sums.svg"
    source = f"python://{tmp_path}/sums.py:Sums"
    grid = ["--cores", "1", "--batches", "1", "--repeat", "4", "--no-limit"]
    done = sponge("profile", source, *grid, "-o", str(file), "--plot", str(plot), "--json")
    assert done.returncode == 0, done.stderr
    assert "rows of one size each" in done.stderr
    assert "of a fit without that size" in done.stderr
    assert "by the size of rows" in plot.read_text()
    profile = load_profile(str(file))
    assert profile.model_dump(mode="json") == json.loads(done.stdout)
    assert {point.size for point in profile.sized_points} == {1_000, 3_162, 10_000, 31_623, 100_000}
    model = profile.latency_model()
    assert model.at(100_000).latency(1, 1) > model.at(1_000).latency(1, 1)
