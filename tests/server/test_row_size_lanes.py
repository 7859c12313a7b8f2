"""A declared size in a real lane: rows of several sizes share a batch."""

from __future__ import annotations

import pytest
from lane_pool import importable_models, item

from sponge_server.workers.interface import ItemError, ModelError, ModelSpec, Tensor
from sponge_server.workers.pool import WorkerPool
from sponge_server.workers.row_size import RowSize

pytestmark = [pytest.mark.torch, pytest.mark.asyncio]


def numbers(outputs: tuple[Tensor, ...] | ItemError) -> list[float]:
    assert not isinstance(outputs, ItemError), outputs
    return [memoryview(bytes(tensor.data)).cast("f")[0] for tensor in outputs]


async def test_shorter_rows_are_filled_up_and_answered_as_alone() -> None:
    with importable_models():
        pool = WorkerPool([ModelSpec("m", "python://lane_models:filled", max_batch=8)])
        try:
            await pool.start(1)
            assert pool.models[0].size == RowSize("x", most=8, pad=0)
            result = await pool.lanes[0].run([item((1.0, 2.0)), item((4.0,)), item((1.0, 1.0, 5.0))], threads=1)
            assert [numbers(outputs) for outputs in result.outputs] == [[3.0, 3.0], [4.0, 3.0], [7.0, 3.0]]
            # A row that is too long for the model costs the others nothing but a second try.
            result = await pool.lanes[0].run([item((1.0, 2.0)), item((1.0,) * 9), item((5.0,))], threads=1)
            assert [numbers(result.outputs[index]) for index in (0, 2)] == [[3.0, 1.0], [5.0, 1.0]]
            assert isinstance(result.outputs[1], ItemError)
            assert "no place beyond 8" in str(result.outputs[1])
        finally:
            await pool.close()


async def test_a_size_that_no_input_has_fails_the_start_with_the_fix() -> None:
    with importable_models():
        pool = WorkerPool([ModelSpec("m", "python://lane_models:misdeclared", max_batch=8)])
        with pytest.raises(ModelError, match="its inputs are x: name one"):
            await pool.start(1)
        await pool.close()
