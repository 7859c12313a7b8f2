"""Real models through real lanes: digits as tensors and as images, and a ResNet-18 on one and on two threads."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from sponge_server.workers.examples import example_item
from sponge_server.workers.interface import Item, ItemError, ModelSpec, Tensor
from sponge_server.workers.pool import WorkerPool

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]

MAX_BATCH = 64


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def digits() -> AsyncIterator[WorkerPool]:
    pool = WorkerPool([ModelSpec("digits", "digits://", MAX_BATCH)])
    await pool.start(1)
    yield pool
    await pool.close()


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """The quarter that `digits.build` does not train on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    _, pixels, _, labels = train_test_split(
        data.images, data.target, test_size=0.25, random_state=7, stratify=data.target
    )
    return pixels.astype(np.float32) / 16.0, labels


def answer(outputs: tuple[Tensor, ...] | ItemError) -> int:
    assert not isinstance(outputs, ItemError), outputs
    return int(np.frombuffer(outputs[0].data, np.float32).argmax())


def png(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(buffer, form)
    return buffer.getvalue()


async def test_digits_are_read_through_a_lane(digits: WorkerPool) -> None:
    pixels, labels = held_out()
    right = 0
    for start in range(0, len(labels), MAX_BATCH):
        rows = pixels[start : start + MAX_BATCH]
        items = [Item((Tensor("input", "FP32", (1, 1, 8, 8), row.tobytes()),)) for row in rows]
        result = await digits.lanes[0].run(items, threads=1)
        right += sum(answer(o) == label for o, label in zip(result.outputs, labels[start:], strict=False))
    assert right / len(labels) > 0.97
    assert digits.models[0].labels == tuple("0123456789")
    assert digits.models[0].platform == "pytorch_export"


async def test_a_corrupt_image_fails_alone(digits: WorkerPool) -> None:
    pixels, labels = held_out()
    good = png(pixels[0])
    broken = good[:60]
    tensor = Item((Tensor("input", "FP32", (1, 1, 8, 8), pixels[3].tobytes()),))
    items = [
        Item(images=(good,)),
        Item(images=(broken,)),
        Item(images=(good, broken)),
        tensor,
        Item(images=(png(pixels[4]),)),
    ]
    result = await digits.lanes[0].run(items, threads=1)
    assert [answer(result.outputs[i]) for i in (0, 3, 4)] == [labels[0], labels[3], labels[4]]
    assert "cannot be read" in str(result.outputs[1])
    assert str(result.outputs[2]).startswith("image 2 of 2: ")


async def test_images_and_tensors_of_several_rows_mix(digits: WorkerPool) -> None:
    pixels, _ = held_out()
    images = Item(images=tuple(png(row) for row in pixels[:3]))
    tensors = Item((Tensor("input", "FP32", (2, 1, 8, 8), pixels[3:5].tobytes()),))
    result = await digits.lanes[0].run([images, tensors], threads=1)
    mixed = [
        np.frombuffer(o[0].data, np.float32).reshape(-1, 10) for o in result.outputs if not isinstance(o, ItemError)
    ]
    assert [m.shape for m in mixed] == [(3, 10), (2, 10)]
    whole = Item((Tensor("input", "FP32", (5, 1, 8, 8), pixels[:5].tobytes()),))
    alone = (await digits.lanes[0].run([whole], threads=2)).outputs[0]
    assert not isinstance(alone, ItemError)
    np.testing.assert_allclose(
        np.concatenate(mixed), np.frombuffer(alone[0].data, np.float32).reshape(5, 10), atol=0.05
    )  # PNG holds 8 bits


async def test_resnet18_answers_the_same_on_any_number_of_threads() -> None:
    pool = WorkerPool([ModelSpec("resnet18", "torchvision://resnet18?weights=none", max_batch=4)])
    try:
        await pool.start(2)
        item = example_item(pool.models[0], 1)
        results = [await lane.run([item] * rows, k) for lane in pool.lanes for k in (1, 2) for rows in (1, 4)]
        logits = [np.frombuffer(o[0].data, np.float32) for r in results for o in r.outputs if isinstance(o, tuple)]
        assert len(logits) == 20
        for other in logits[1:]:
            np.testing.assert_allclose(other, logits[0], rtol=1e-3, atol=1e-4)
        assert pool.models[0].accepts_images
    finally:
        await pool.close()
