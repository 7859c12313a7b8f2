"""ONNX Runtime and OpenVINO in lanes: the outputs of torch on any batch and thread count, and what they cost."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import onnx_models
import pytest

from sponge_server.models.source import load
from sponge_server.workers.examples import example_item
from sponge_server.workers.interface import Item, LaneResult, ModelError, ModelSpec, Tensor
from sponge_server.workers.pool import WorkerPool
from sponge_system.process_memory import private_bytes

pytestmark = pytest.mark.torch

MAX_BATCH = 4
WEIGHTS = Path(str(distribution("rapidocr-onnxruntime").locate_file("rapidocr_onnxruntime/models")))
"""Trained weights in the wheel of rapidocr: recognition of text of any width, and a classifier."""


@asynccontextmanager
async def lanes(*sources: str, count: int = 1, max_batch: int = MAX_BATCH) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool([ModelSpec(f"m{number}", source, max_batch) for number, source in enumerate(sources)])
    try:
        await pool.start(count)
        yield pool
    finally:
        await pool.close()


def arrays(result: LaneResult) -> list[np.ndarray]:
    (outputs,) = result.outputs
    assert isinstance(outputs, tuple), outputs
    return [np.frombuffer(tensor.data, np.float32).reshape(tensor.shape) for tensor in outputs]


async def test_every_runtime_gives_the_outputs_of_torch_for_any_batch_and_thread_count() -> None:
    sources = ["digits://", "digits://?runtime=onnx", "digits://?runtime=openvino"]
    async with lanes(*sources, count=2) as pool:
        assert [m.platform for m in pool.models] == ["pytorch_export", "onnxruntime_onnx", "openvino"]
        for info in pool.models[1:]:
            assert info.inputs == pool.models[0].inputs
            assert info.outputs == pool.models[0].outputs
            assert info.labels == tuple("0123456789")
            assert info.accepts_images
        for rows in range(1, MAX_BATCH + 1):
            item = example_item(pool.models[0], rows)
            (right,) = arrays(await pool.lanes[0].run([item], 1))
            for lane in pool.lanes:
                for model in (1, 2):
                    for threads in (3, 1, 2, 1):
                        result = await lane.run([item], threads, model=model)
                        assert result.threads == threads
                        np.testing.assert_allclose(arrays(result)[0], right, rtol=1e-3, atol=1e-4)


async def test_a_thread_count_more_costs_onnx_runtime_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    width = 3000
    weights = width * width * 4
    path = onnx_models.linear(tmp_path / "m.onnx", width)
    async with lanes(f"onnx://{path}") as pool:
        assert pool.models[0].opened_by_threads
        item = example_item(pool.models[0], 1)
        held = []
        for threads in (1, 2, 3, 4):
            await pool.lanes[0].run([item], threads)
            held.append(private_bytes(pool.pids[1]) or 0)
    assert held[-1] - held[0] < weights / 2  # three more copies would be three times the weights
    assert held[0] < 3 * weights


@pytest.mark.parametrize(("name", "shape"), [("rec", (3, 48, -1)), ("cls", (3, 48, 192))])
async def test_trained_weights_give_the_answers_of_a_plain_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, ...]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = trained(name, tmp_path)
    # The file says that any height will do, and OpenVINO has nothing left of an image of 16 x 16.
    described = {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape}]}
    path.with_name(f"{path.name}.json").write_text(json.dumps(described))
    widths = (96, 160) if shape[-1] < 0 else shape[-1:]
    async with lanes(f"onnx://{path}", f"openvino://{path}", max_batch=2) as pool:
        assert [model.inputs[0].shape for model in pool.models] == [shape, shape]
        for width in widths:
            pixels = np.random.default_rng(1).random((2, *shape[:-1], width), dtype=np.float32)
            right = onnx_models.answer_of(path, pixels)
            item = Item(tensors=(Tensor("x", "FP32", pixels.shape, pixels.tobytes()),))
            for model in (0, 1):
                for threads in (1, 2):
                    (given,) = arrays(await pool.lanes[0].run([item], threads, model=model))
                    np.testing.assert_allclose(given, right, rtol=1e-2, atol=1e-3)


def trained(name: str, folder: Path) -> Path:
    (path,) = WEIGHTS.glob(f"*{name}*.onnx")
    return Path(shutil.copy(path, folder / "m.onnx"))


def test_a_sidecar_that_does_not_fit_the_file_is_told(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    for inputs, message in (
        (["a", "b"], "describes 2 inputs, the model has 1"),
        ([{"name": "x", "datatype": "FP32", "shape": [5]}], r"as FP32 \[5\], the model takes FP32 \[4\]"),
        ([{"name": "x", "datatype": "INT64", "shape": [4]}], r"as INT64 \[4\], the model takes FP32 \[4\]"),
    ):
        (tmp_path / "m.onnx.json").write_text(json.dumps({"inputs": inputs}))
        with pytest.raises(ModelError, match=message):
            load(f"onnx://{path}")


async def test_a_file_of_another_runtime_is_told_by_its_suffix(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    (tmp_path / "m.onnx.json").write_text(json.dumps({"inputs": ["a"], "outputs": ["b"], "labels": list("wxyz")}))
    sources = [f"file://{path}", f"onnx:{path}", f"file://{path}?runtime=openvino", f"onnx://{path}?runtime=openvino"]
    async with lanes(*sources) as pool:
        platforms = [model.platform for model in pool.models]
        assert platforms == ["onnxruntime_onnx", "onnxruntime_onnx", "openvino", "openvino"]
        given = []
        for number, model in enumerate(pool.models):
            assert ([i.name for i in model.inputs], [o.name for o in model.outputs]) == (["a"], ["b"])
            assert model.labels == tuple("wxyz")
            given += arrays(await pool.lanes[0].run([example_item(model, 3)], 2, model=number))
        for other in given[1:]:
            np.testing.assert_allclose(other, given[0], rtol=1e-5)


async def test_a_model_for_one_row_is_served_in_batches_of_one(tmp_path: Path) -> None:
    path = onnx_models.one_node(tmp_path / "m.onnx", shape=(1, 4))
    for runtime in ("onnx", "openvino"):
        assert load(f"{runtime}://{path}").max_batch == 1
        async with lanes(f"{runtime}://{path}", max_batch=1) as pool:
            assert arrays(await pool.lanes[0].run([example_item(pool.models[0], 1)], 1))[0].shape == (1, 4)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digits://?runtime=tvm", "runtime must be one of torch, onnx, openvino"),
        ("onnx://{onnx}?runtime=torch", "runs in onnxruntime_onnx, not in torch"),
        ("openvino://{onnx}?dtype=int9", "dtype must be one of"),
    ],
)
def test_what_a_runtime_cannot_run_is_refused(tmp_path: Path, source: str, message: str) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=message):
        load(source.format(onnx=path))


def test_a_model_that_cannot_be_traced_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for runtime in ("onnx", "openvino"):
        with pytest.raises(ModelError, match=r"torch\.export cannot trace the model"):
            load(f"python://lane_models:moody?runtime={runtime}")


SHOUTING = """
from sponge_server.model import Input, Model


class Shouting(Model):
    inputs = (Input("text", "BYTES", ()),)

    def predict(self, inputs):
        return {"loud": [text.upper() for text in inputs["text"]]}
"""


def test_a_class_that_takes_strings_is_not_converted(tmp_path: Path) -> None:
    (tmp_path / "shouting.py").write_text(SHOUTING)
    with pytest.raises(ModelError, match=r"takes strings or lists, .*leave --runtime out, or let your class open the"):
        load(f"python://{tmp_path}/shouting.py:Shouting?runtime=onnx")
