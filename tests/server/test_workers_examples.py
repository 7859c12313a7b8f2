"""Made-up items: of the right shape and range, the same in every process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sponge_core.datatypes import NUMPY_TYPES
from sponge_server.workers.examples import example_item
from sponge_server.workers.interface import DATATYPE_SIZE, ModelInfo, TensorSpec

INFO = ModelInfo("m", (), (), 8, None, False, None, "test")


def info(datatype: str, integers: tuple[int, int] | None = None) -> ModelInfo:
    """A model with one input of 40 numbers a row."""
    return replace(INFO, inputs=(TensorSpec("x", datatype, (4, 10)),), integers=() if integers is None else (integers,))


def numbers(model: ModelInfo, rows: int, seed: int = 0) -> np.ndarray:
    (tensor,) = example_item(model, rows, seed=seed).tensors
    assert tensor.shape == (rows, 4, 10)
    assert len(tensor.data) == rows * 40 * DATATYPE_SIZE[tensor.datatype]
    if tensor.datatype == "BF16":
        return (np.frombuffer(tensor.data, "<u2").astype("<u4") << 16).view("<f4").reshape(rows, 40)
    return np.frombuffer(tensor.data, NUMPY_TYPES[tensor.datatype]).reshape(rows, 40)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
def test_fractions_are_from_0_to_1_and_differ_by_row_and_seed(datatype: str) -> None:
    found = numbers(info(datatype), 300).astype(float)
    assert 0 <= found.min() < 0.1
    assert 0.9 < found.max() <= 1
    assert 0.45 < found.mean() < 0.55
    assert len({row.tobytes() for row in found}) == 300
    assert not np.array_equal(found[:1], numbers(info(datatype), 1, seed=1))


@pytest.mark.parametrize("datatype", [name for name in DATATYPE_SIZE if "INT" in name])
def test_integers_fill_their_range_and_are_the_same_in_each_row(datatype: str) -> None:
    found = numbers(info(datatype, (1, 6)), 3)
    assert set(found[0].tolist()) == {1, 2, 3, 4, 5, 6}
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[:1], numbers(info(datatype, (1, 6)), 1, seed=1))


@pytest.mark.parametrize("datatype", ["BOOL", "INT64"])
def test_integers_of_a_model_without_a_range_are_zeros(datatype: str) -> None:
    assert not numbers(info(datatype), 2).any()


def test_items_are_the_same_in_another_process() -> None:
    code = (
        "import sys; from dataclasses import replace;"
        "from sponge_server.workers.examples import example_item; from sponge_server.workers.interface import *;"
        "x = TensorSpec('x', 'INT64', (4, 10));"
        "info = ModelInfo('m', (x,), (), 8, None, False, None, 'test', integers=((0, 255),));"
        "sys.stdout.buffer.write(bytes(example_item(info, 2).tensors[0].data))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == numbers(info("INT64", (0, 255)), 2).tobytes()
