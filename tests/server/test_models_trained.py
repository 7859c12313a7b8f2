"""Trained models that wheels ship, served with the guide's own classes: their libraries' answers, over REST and gRPC.

Text in images of any size is found and read, lines of any width are read, and speech is found in sound of any length.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from server_process import ServerProcess
from speech_sound import RATE, spoken
from tests.docs.code_blocks import blocks_in

from sponge_server.models.source import load
from sponge_server.protos import inference_pb2 as pb
from sponge_server.workers.probe import probe
from sponge_server.workers.strings import unpacked

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(400)]

CLASSES = {"reader": "Reader", "lines": "Lines", "speech": "Speech"}
DETECTION = distribution("rapidocr-onnxruntime").locate_file("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx")
VOICE = distribution("silero-vad").locate_file("silero_vad/data/silero_vad.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the files that the guide writes."""
    found: Path = tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(found)
        for block in blocks_in(("docs/guides/your-model.md",), "python"):
            if any(f'Path("{name}.py")' in block.text for name in CLASSES):
                exec(block.text, {})
    return found


START_S = 240.0  # three libraries with their models, on a busy machine


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = [f"--model={name}=python://{folder}/{name}.py:{kind}" for name, kind in CLASSES.items()]
    options = (*models, "--slo-ms", "60000", "--cores", "1", "--max-batch", "2")
    running = ServerProcess(tmp_path_factory.mktemp("s"), *options, start_s=START_S)
    yield running
    assert running.stop() == 0


def own(folder: Path, name: str) -> Any:
    """The guide's class, for its library without a server."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = getattr(module, CLASSES[name])()
    made.setup()
    return made


def page(lines: list[str], width: int, height: int, seed: int = 0) -> np.ndarray:
    """An image with lines of text on paper that is not quite even."""
    paper = 235 + np.random.default_rng(seed).integers(0, 20, (height, width, 3))
    image = Image.fromarray(paper.astype(np.uint8))
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((12, 10 + 44 * number), line, (20, 20, 60), ImageFont.load_default(26))
    return np.array(image)


PAGES = [
    page(["Sponge serves", "in time"], 260, 110, 1),
    page(["deadline 200 ms"], 300, 60, 2),
    page([], 90, 70, 3),
    page(["any", "size", "3"], 120, 150, 4),
]


def photographs() -> list[np.ndarray]:
    """Scikit-learn's two, a temple and a flower, as large as they are; and a part of one with a line written on it."""
    from sklearn.datasets import load_sample_images

    temple, flower = (np.asarray(image) for image in load_sample_images().images)
    written = Image.fromarray(flower[:200, :360].copy())
    ImageDraw.Draw(written).text((20, 120), "a flower", (255, 255, 255), ImageFont.load_default(40))
    return [temple, flower, np.array(written)]


def tensors(answer: Any) -> dict[str, np.ndarray]:
    assert answer.status == 200, answer.body
    return {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in answer.json["outputs"]}


def test_text_in_images_of_any_size_is_what_the_library_reads(server: ServerProcess, folder: Path) -> None:
    ocr = own(folder, "reader").ocr
    seen = 0
    for array in [*PAGES, *photographs()]:
        lines = ocr(array[:, :, ::-1])[0] or []
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        found = tensors(server.infer("reader", buffer.getvalue(), content_type="image/png"))
        assert found["boxes_lengths"].tolist() == found["text_lengths"].tolist() == [len(lines)]
        assert found["text"].tolist() == [text for _, text, _ in lines]
        np.testing.assert_array_equal(found["boxes"], np.reshape([box for box, _, _ in lines], (-1, 4, 2)))
        np.testing.assert_allclose(found["score"], [score for _, _, score in lines], rtol=1e-6)
        seen += len(lines)
    assert seen >= 6


def test_a_request_with_several_images_is_their_answers_in_a_row(server: ServerProcess, folder: Path) -> None:
    message = pb.ModelInferRequest(model_name="reader")
    encoded = message.inputs.add(name="image", datatype="BYTES", shape=[len(PAGES)])
    for array in PAGES:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "WEBP", lossless=True)
        encoded.contents.bytes_contents.append(buffer.getvalue())
    answer = pb.ModelInferResponse.FromString(server.call("ModelInfer", message.SerializeToString()))
    found = {output.name: output for output in answer.outputs}
    ocr = own(folder, "reader").ocr
    right = [ocr(array[:, :, ::-1])[0] or [] for array in PAGES]
    texts = [text for lines in right for _, text, _ in lines]
    assert [text.decode() for text in found["text"].contents.bytes_contents] == texts
    assert list(found["text_lengths"].contents.int64_contents) == list(map(len, right))
    assert list(found["boxes"].shape) == [len(texts), 4, 2]


def test_lines_of_any_width_are_what_the_library_reads(server: ServerProcess, folder: Path) -> None:
    ocr = own(folder, "lines").ocr
    for number, text in enumerate(("a", "cores", "resized in place", "every request in time, on few cores")):
        line = page([text], 30 + 14 * len(text), 48, number)
        spec = {
            "name": "line",
            "datatype": "UINT8",
            "shape": [1, *line.shape],
            "parameters": {"binary_data_size": line.size},
        }
        head = json.dumps({"inputs": [spec]}).encode()
        sent = server.infer("lines", head + line.tobytes(), inference_header_content_length=str(len(head)))
        ((right, score),) = ocr(line[:, :, ::-1], use_det=False, use_cls=False)[0]
        found = tensors(sent)
        assert found["text"].tolist() == [right]
        np.testing.assert_allclose(found["score"], [score], rtol=1e-6)
        assert text == "a" or right.replace(" ", "").startswith(text.replace(" ", ""))


def test_speech_in_sound_of_any_length_is_what_the_library_finds(server: ServerProcess, folder: Path) -> None:
    import torch
    from silero_vad import get_speech_timestamps

    model = own(folder, "speech").model
    sounds = [spoken(words, words) for words in (1, 2, 3)] + [np.zeros(RATE // 2, np.float32)]
    for words, sound in zip((1, 2, 3, 0), sounds, strict=True):
        message = pb.ModelInferRequest(model_name="speech")
        message.inputs.add(name="sound", datatype="FP32", shape=[1, len(sound)])
        message.raw_input_contents.append(sound.tobytes())
        answer = pb.ModelInferResponse.FromString(server.call("ModelInfer", message.SerializeToString()))
        found = np.frombuffer(answer.raw_output_contents[0], np.int64).reshape(tuple(answer.outputs[0].shape))
        right = get_speech_timestamps(torch.from_numpy(sound.copy()), model)
        assert found.tolist() == [[part["start"], part["end"]] for part in right]
        assert len(found) == words


def test_detection_weights_run_as_they_are_on_images_that_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime
    import torch

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = load(f"onnx://{DETECTION}")
    found = probe(model, 2, 300.0)
    assert found.any_size == 32
    assert [spec.shape for spec in found.outputs] == [(1, -1, -1)]
    noise = np.random.default_rng(0).random((1, 3, 64, 96), np.float32)
    # Whole multiples of 32 pixels, as the network takes them.
    photos = [photo[: photo.shape[0] // 32 * 32, : photo.shape[1] // 32 * 32] for photo in photographs()]
    session = onnxruntime.InferenceSession(str(DETECTION), providers=["CPUExecutionProvider"])
    for image in (noise, *(photo.transpose(2, 0, 1)[None].astype(np.float32) / 255 for photo in photos)):
        ((_, map_of_text),) = model.run([torch.from_numpy(image)])
        (right,) = session.run(None, {"x": image})
        np.testing.assert_allclose(map_of_text.numpy(), right, rtol=1e-3, atol=1e-4)


def test_a_network_with_state_and_a_number_has_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime
    import torch

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(Exception, match=r"input sr has no batch dimension: .*add \?batch=false"):
        load(f"onnx://{VOICE}")
    model = load(f"onnx://{VOICE}?batch=false")
    assert [(spec.name, spec.shape) for spec in model.inputs] == [
        ("input", (-1, -1)),
        ("state", (2, -1, 128)),
        ("sr", ()),
    ]
    assert not model.batched
    given = [spoken(1, 1)[None, 9000:9576], np.zeros((2, 1, 128), np.float32), np.array(RATE)]
    found = dict(model.run([torch.from_numpy(array)[None] for array in given]))
    session = onnxruntime.InferenceSession(str(VOICE), providers=["CPUExecutionProvider"])
    names = [spec.name for spec in model.inputs]
    right = dict(
        zip(
            (o.name for o in session.get_outputs()),
            session.run(None, dict(zip(names, given, strict=True))),
            strict=True,
        )
    )
    assert {name: list(output.shape) for name, output in found.items()} == {
        "output": [1, 1, 1],
        "stateN": [1, 2, 1, 128],
    }
    for name, array in right.items():
        np.testing.assert_allclose(found[name][0].numpy(), array, rtol=1e-3, atol=1e-5)


def test_strings_of_the_binary_form_are_read(server: ServerProcess) -> None:
    message = pb.ModelInferRequest(model_name="reader")
    message.inputs.add(name="image", datatype="UINT8", shape=[1, *PAGES[1].shape])
    message.raw_input_contents.append(PAGES[1].tobytes())
    answer = pb.ModelInferResponse.FromString(server.call("ModelInfer", message.SerializeToString()))
    names = [output.name for output in answer.outputs]
    texts = unpacked(answer.raw_output_contents[names.index("text")])
    assert [bytes(text).decode().replace(" ", "") for text in texts] == ["deadline200ms"]
