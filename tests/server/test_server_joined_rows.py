"""Rows of a request that ran in different batches: joined if one tensor can hold them, else refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from engine_world import World
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import VirtualLoop, run_virtual

from sponge_server.engine.jobs import joined
from sponge_server.results import InferenceResult, RejectedError
from sponge_server.workers.interface import Item, Tensor


def output(*shape: int, name: str = "y", datatype: str = "UINT8", fill: int = 0) -> Tensor:
    return Tensor(name, datatype, (1, *shape), np.full(shape, fill, np.uint8).tobytes())


@given(st.lists(st.integers(0, 255), min_size=1, max_size=9), st.lists(st.integers(0, 3), max_size=3))
def test_rows_of_one_shape_keep_their_order(fills: list[int], shape: list[int]) -> None:
    rows = [(output(*shape, fill=fill), output(2, name="z", fill=fill)) for fill in fills]
    first, second = joined(rows)
    assert (first.shape, second.shape) == ((len(fills), *shape), (len(fills), 2))
    whole = np.frombuffer(first.data, np.uint8).reshape(first.shape)
    assert all((row == fill).all() for row, fill in zip(whole, fills, strict=True))
    assert list(bytes(second.data)[::2]) == fills


@pytest.mark.parametrize(
    "other",
    [
        (output(3),),
        (output(2, 1),),
        (output(),),
        (output(2, name="x"),),
        (output(2, datatype="INT8"),),
        (output(2), output(2, name="z")),
        (),
    ],
)
def test_rows_of_other_shapes_names_or_numbers_are_refused(other: tuple[Tensor, ...]) -> None:
    with pytest.raises(RejectedError, match=r"y UINT8 \[2\].*send each row in a request of its own"):
        joined([(output(2),), (output(2),), other])


def test_the_client_is_told_and_the_request_counted_once() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop)
        rows = [Item((Tensor("x", "FP32", (1, width), bytes(4 * width)),)) for width in (1, 2)]
        refused = await world.outcome(world.submit(items=rows))
        assert isinstance(refused, RejectedError)
        assert "y FP32 [1] and y FP32 [2]" in str(refused)
        assert isinstance(await world.outcome(world.submit(items=rows[:1] * 2)), InferenceResult)
        assert world.counted() == {"in_time": 2}
        assert world.engine.jobs == 0

    run_virtual(scenario)
