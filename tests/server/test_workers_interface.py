"""What a model accepts, checked before anything reaches a lane; the server process imports no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sponge_server.workers.examples import example_item
from sponge_server.workers.interface import Item, ItemError, ModelInfo, Tensor, TensorSpec

INFO = ModelInfo(
    name="m",
    inputs=(TensorSpec("x", "FP32", (3, -1)), TensorSpec("mask", "BOOL", (3,))),
    outputs=(TensorSpec("y", "FP32", (10,)),),
    max_batch=4,
    labels=None,
    accepts_images=False,
    warning=None,
    platform="test",
)


def x(rows: int = 1, shape: tuple[int, ...] | None = None, datatype: str = "FP32", size: int | None = None) -> Tensor:
    shape = shape or (rows, 3, 5)
    return Tensor("x", datatype, shape, bytes(rows * 60 if size is None else size))


def mask(rows: int = 1) -> Tensor:
    return Tensor("mask", "BOOL", (rows, 3), bytes(rows * 3))


@pytest.mark.parametrize("item", [Item((x(), mask())), Item((mask(2), x(2))), example_item(INFO, 4)])
def test_accepted(item: Item) -> None:
    INFO.check(item)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item((x(),)), r"needs exactly the inputs x \(FP32 \[-1, 3, -1\]\), mask .*; got x"),
        (Item((x(), x(), mask())), "got x, x, mask"),
        (Item((x(2), mask(1))), "same number of rows"),
        (Item((x(0), mask(0))), "rows >= 1"),
        (Item((Tensor("x", "FP32", (), b""), mask())), "rows >= 1"),
        (Item((x(datatype="FP64"), mask())), "datatype FP64, the model takes FP32"),
        (Item((x(shape=(1, 4, 5)), mask())), r"shape \[1, 4, 5\], the model takes \[-1, 3, -1\]"),
        (Item((x(shape=(1, 3, 0), size=0), mask())), r"shape \[1, 3, 0\]"),
        (Item((x(size=59), mask())), "has 59 bytes, its shape and datatype need 60"),
        (Item(images=(b"jpeg",)), "takes no encoded images"),
        (Item((x(), mask()), images=(b"jpeg",)), "not both"),
        (Item(), "needs exactly the inputs"),
    ],
)
def test_refused_with_the_reason(item: Item, message: str) -> None:
    with pytest.raises(ItemError, match=message):
        INFO.check(item)


def test_the_server_process_never_imports_torch() -> None:
    code = (
        "import sys, sponge_server.workers.pool, sponge_server.models.source as s; s.parse('digits://');"
        "print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
