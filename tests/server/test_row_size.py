"""The declared size of a row: read from a request, checked against the model, and used for dispatch and calibration."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_world import World, item
from virtual_time import INFO, VirtualLoop, run_virtual
from wide_bounds import WIDE

from sponge_core.deadlines import SloPolicy
from sponge_core.latency import LatencyModel, SizeCurve, octave_of
from sponge_server.model_handle import ModelHandle
from sponge_server.model_state import FIRST_VERSION
from sponge_server.workers.examples import example_item
from sponge_server.workers.interface import Item, Tensor, TensorSpec
from sponge_server.workers.row_size import RowSize, RowSizeError

TOKENS = RowSize("ids", most=400, least=8, pad=0)
TEXTS = replace(INFO, inputs=(TensorSpec("ids", "INT64", (-1,)), TensorSpec("mask", "INT64", (-1,))), size=TOKENS)


def text(tokens: int, rows: int = 1) -> Item:
    data = bytes(8 * tokens * rows)
    return Item(tuple(Tensor(name, "INT64", (rows, tokens), data) for name in ("ids", "mask")))


def test_the_size_of_a_request_is_read_from_its_tensor() -> None:
    assert TEXTS.size_of(text(37)) == 37.0
    assert TEXTS.size_of(text(0)) == 1.0
    assert INFO.size_of(item()) == 1.0


def test_the_range_is_measured_in_steps_and_examples_are_in_its_middle() -> None:
    assert TOKENS.measured == [8, 21, 57, 150, 400]
    assert TOKENS.reference == 57
    assert example_item(TEXTS, 2).tensors[0].shape == (2, 57)
    assert example_item(TEXTS, 2, 400).tensors[1].shape == (2, 400)
    assert RowSize("x", most=2).measured == [1, 2]


def test_only_what_is_declared_is_filled_up() -> None:
    assert TOKENS.join(TEXTS.inputs) == "padded"
    assert [TOKENS.padded(TensorSpec("a", "INT64", shape)) for shape in ((-1,), (3,), ())] == [True, False, False]
    apart = RowSize("ids", most=400)
    assert apart.join(TEXTS.inputs) == "alike"
    assert not apart.padded(TEXTS.inputs[0])


@pytest.mark.parametrize(("pad", "join"), [(None, "ragged"), (0, "padded")])
def test_rows_of_a_ragged_input_share_a_batch_as_they_are(pad: float | None, join: str) -> None:
    ragged = TensorSpec("ids", "INT64", (-1,), ragged=True)
    size = RowSize("ids", most=400, pad=pad)
    assert size.join([ragged, TEXTS.inputs[1]]) == join
    assert not size.padded(ragged)
    assert size.join([TEXTS.inputs[0], replace(ragged, name="mask")]) == ("alike" if pad is None else "padded")


@pytest.mark.parametrize(
    ("size", "fix"),
    [
        (RowSize("texts", most=400), "name one"),
        (RowSize("ids", most=400, axis=1), "choose an axis"),
        (RowSize("fixed", most=400), "choose an axis"),
        (RowSize("ids", most=8, least=8), "most larger"),
        (RowSize("ids", most=8, least=0), "least at least 1"),
    ],
)
def test_a_size_that_the_inputs_do_not_have_is_refused_with_the_fix(size: RowSize, fix: str) -> None:
    with pytest.raises(RowSizeError, match=fix):
        size.check((*TEXTS.inputs, TensorSpec("fixed", "FP32", (4,))))


def test_dispatch_and_calibration_know_the_sizes() -> None:
    model = LatencyModel(0.001, 0.0, 0.0, 0.009, sizes=SizeCurve((0.0, 1.0, 0.0), (0.0, 0.0, 0.0)))

    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0, profiles=(model,))
        world.models[0] = ModelHandle(0, replace(TEXTS, max_batch=16), SloPolicy(1.0), WIDE, FIRST_VERSION, 0)
        world.engine.take_over(world.models[0], world.scheduler.models[0])
        jobs = [world.submit(slo_s=5.0, items=[text(tokens)]) for tokens in (10, 300, 11)]
        assert [job.size for job in jobs] == [10.0, 300.0, 11.0]
        for job in jobs:
            await world.outcome(job)
        assert [rows for _, rows, _ in world.ran()] == [2, 1], (
            "the two short texts share a batch, the long one is alone"
        )
        corrected = world.scheduler.models[0]
        assert corrected.sizes is not None
        assert len(corrected.sizes.by_octave) == octave_of(300.0) + 1

    run_virtual(scenario)
