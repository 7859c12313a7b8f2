"""`hf://`: folders of Hugging Face for each task, against their own networks, and what is refused with which fix."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_folders import TEXTS, bert_folder, image_folder
from PIL import Image

from sponge_server.models.compiling import compile_model
from sponge_server.models.hf_texts import _joined
from sponge_server.models.precision import native_bf16
from sponge_server.models.source import load
from sponge_server.workers.interface import ModelError, RefusedError, TensorSpec

pytestmark = pytest.mark.torch

BF16 = pytest.mark.skipif(not native_bf16(), reason="the CPU does not multiply bfloat16")

GIVEN = np.array([text.encode() for text in TEXTS], object)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a class of networks, made once."""
    root, made = tmp_path_factory.mktemp("hf"), {}

    def folder(kind: str) -> Path:
        if kind not in made:
            labels = ("score",) if kind.endswith("Rank") else ("O", "B-PER", "I-PER")
            made[kind] = bert_folder(root / kind, kind.replace("Rank", "ForSequenceClassification"), labels)
        return made[kind]

    return folder


def own(folder: Path, kind: str, text: str, pair: str | None = None) -> Any:
    """What the network says of one text, or a pair, by itself: without padding, tokenized here."""
    import transformers
    from tokenizers import Tokenizer

    network = getattr(transformers, kind).from_pretrained(folder).eval()
    found = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, pair)
    with torch.inference_mode():
        return network(input_ids=torch.tensor([found.ids]), token_type_ids=torch.tensor([found.type_ids]))


def run(url: str, *given: Any) -> dict[str, Any]:
    return dict(load(url).run(list(given)))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_embeddings_do_not_depend_on_the_padding(folders: Callable[[str], Path], pooling: str) -> None:
    folder = folders("BertModel")
    found = run(f"hf://{folder}?pooling={pooling}&normalize=false", GIVEN)
    for text, embedding, count in zip(TEXTS, found["embedding"], found["tokens"].tolist(), strict=True):
        hidden = own(folder, "BertModel", text).last_hidden_state[0]
        expected = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        assert torch.allclose(embedding, expected, atol=1e-5)
        assert count == len(hidden)


def test_embeddings_have_length_one_and_the_folder_chooses_the_pooling(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "m", "BertModel")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    found = run(f"hf://{folder}", GIVEN)["embedding"]
    cls = torch.stack([own(folder, "BertModel", text).last_hidden_state[0, 0] for text in TEXTS])
    assert torch.allclose(found, torch.nn.functional.normalize(cls), atol=1e-5)


def test_text_classification_answers_scores_and_label(folders: Callable[[str], Path]) -> None:
    folder = folders("BertForSequenceClassification")
    model = load(f"hf://{folder}")
    assert (model.inputs, model.labels) == ((TensorSpec("text", "BYTES", ()),), ("O", "B-PER", "I-PER"))
    assert model.labels is not None
    found = dict(model.run([GIVEN]))
    for text, scores, label in zip(TEXTS, found["scores"], found["label"], strict=True):
        expected = own(folder, "BertForSequenceClassification", text).logits.softmax(1)[0]
        assert torch.allclose(scores, expected, atol=1e-5)
        assert label == model.labels[int(expected.argmax())]


def test_rerank_scores_pairs(folders: Callable[[str], Path]) -> None:
    folder = folders("BertRank")
    found = run(f"hf://{folder}", np.array([b"lazy dog"] * len(TEXTS), object), GIVEN)
    for text, score in zip(TEXTS, found["score"], strict=True):
        expected = own(folder, "BertForSequenceClassification", "lazy dog", text).logits[0, 0].sigmoid()
        assert torch.allclose(score, expected, atol=1e-5)


def test_entities_are_places_in_the_text(folders: Callable[[str], Path]) -> None:
    found = run(f"hf://{folders('BertForTokenClassification')}", GIVEN)["entities"]
    for text, entities in zip(TEXTS, map(json.loads, found), strict=True):
        assert all(text[each["start"] : each["end"]] == each["text"] for each in entities)
        assert all(set(each) == {"entity", "start", "end", "score", "text"} for each in entities)


@dataclass
class Found:
    """As a tokenizer describes its tokens."""

    offsets: list[tuple[int, int]]
    word_ids: list[int | None]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["O", "O", "O", "O"], []),
        (["B-PER", "I-PER", "O", "B-LOC"], [("PER", "Ann Lee"), ("LOC", "Rome")]),
        (["B-PER", "B-PER", "O", "O"], [("PER", "Ann"), ("PER", "Lee")]),
        (["I-PER", "I-LOC", "I-LOC", "I-LOC"], [("PER", "Ann"), ("LOC", "Lee of Rome")]),
        (["PER", "PER", "O", "PER"], [("PER", "Ann Lee"), ("PER", "Rome")]),
    ],
)
def test_tokens_join_to_entities(names: list[str], expected: list[tuple[str, str]]) -> None:
    text = "Ann Lee of Rome"
    # [CLS] Ann Lee of Ro ##me [SEP]: the rest of a word follows its first token.
    found = Found([(0, 0), (0, 3), (4, 7), (8, 10), (11, 13), (13, 15), (0, 0)], [None, 0, 1, 2, 3, 3, None])
    entities = _joined(text, found, ["O", *names, "O", "O"], [0.0, 0.9, 0.8, 0.9, 0.9, 0.1, 0.0])
    assert [(each["entity"], each["text"]) for each in entities] == expected


def test_images_are_classified_by_their_own_preprocessing(tmp_path: Path) -> None:
    import transformers

    folder = image_folder(tmp_path / "vit")
    model = load(f"hf://{folder}")
    assert (model.inputs, model.labels) == ((TensorSpec("pixel_values", "FP32", (3, 16, 16)),), ("cat", "dog", "none"))
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    assert model.image is not None
    made = torch.from_numpy(model.image.apply(buffer.getvalue()))
    expected = torch.from_numpy((pixels / 255 - 0.5) / 0.25).permute(2, 0, 1).float()
    assert torch.allclose(made, expected, atol=1e-5)
    network = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    assert torch.allclose(dict(model.run([made[None]]))["logits"], network(expected[None]).logits, atol=1e-5)


CONVERTED = [
    ("BertModel", "runtime=onnx", "onnxruntime_onnx", 1e-4),
    ("BertModel", "runtime=onnx&dtype=int8", "onnxruntime_onnx, int8", 0.05),
    ("BertForSequenceClassification", "runtime=openvino", "openvino", 1e-4),
    ("BertRank", "runtime=onnx", "onnxruntime_onnx", 1e-4),
    ("BertForTokenClassification", "runtime=openvino", "openvino", 1e-4),
    pytest.param("BertModel", "dtype=bf16", "transformers, bf16", 0.05, marks=BF16),
    pytest.param("BertRank", "runtime=openvino&dtype=bf16", "openvino, bf16", 0.05, marks=BF16),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options", "platform", "within"), CONVERTED)
def test_only_the_network_runs_elsewhere_and_texts_come_and_answers_go_as_before(
    folders: Callable[[str], Path],
    kind: str,
    options: str,
    platform: str,
    within: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given = [np.array([b"lazy dog"] * len(TEXTS), object)] * (kind == "BertRank") + [GIVEN]
    here, there = load(f"hf://{folders(kind)}"), load(f"hf://{folders(kind)}?{options}")
    assert (there.inputs, there.labels, there.size) == (here.inputs, here.labels, here.size)
    assert there.platform == platform
    for threads in (1, 2):
        assert there.use_threads(threads) == threads
        for (name, right), (other, found) in zip(here.run(given), there.run(given), strict=True):
            assert name == other
            if isinstance(right, torch.Tensor) and right.is_floating_point():
                assert float((found - right).norm() / right.norm()) < within
            elif name == "entities":
                places = [[(e["entity"], e["start"], e["end"]) for e in json.loads(each)] for each in right]
                assert places == [[(e["entity"], e["start"], e["end"]) for e in json.loads(each)] for each in found]
            else:
                assert list(found) == list(right)
    here.use_threads(1)


def test_a_text_that_is_none_is_refused(folders: Callable[[str], Path]) -> None:
    with pytest.raises(RefusedError, match="not UTF-8"):
        run(f"hf://{folders('BertModel')}", np.array([b"\xff"], object))


def test_a_long_text_is_cut(folders: Callable[[str], Path]) -> None:
    long = np.array([b"dog " * 100], object)
    assert run(f"hf://{folders('BertModel')}", long)["tokens"].tolist() == [32]
    assert run(f"hf://{folders('BertModel')}?max_length=8", long)["tokens"].tolist() == [8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?task=translation", "task is 'translation', expected one of text-classification"),
        ("?task=token-classification", "has no weights for classifier.bias, so it was not trained for token-class"),
        ("?pooling=max", "pooling is 'max', expected one of mean, cls, last"),
        ("?normalize=maybe", "normalize is 'maybe', expected true or false"),
        ("?max_length=33", "max_length is 33, .* takes at most 32 tokens"),
        ("?max_length=many", "max_length is 'many', expected a whole number"),
        ("?maxlength=3", "unknown option 'maxlength'; hf:// takes task, max_length"),
    ],
)
def test_wrong_options_are_told(folders: Callable[[str], Path], options: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(f"hf://{folders('BertModel')}{options}")


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def changed(name: str, **values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> object:
        document = json.loads((folder / name).read_text()) | values
        return (folder / name).write_text(json.dumps(document))

    return change


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (without("config.json"), "no config.json in .*: give the folder that save_pretrained wrote"),
        (without("tokenizer.json"), r"make it with AutoTokenizer.from_pretrained\(folder\).save_pretrained"),
        (without("model.safetensors"), r"no weights .\*.safetensors. in .*git lfs pull"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "a pickle that may run any code: convert",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"cut"), "cannot be loaded for embeddings .*complete?"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read .* copy the folder again"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be read .* copy the folder again"),
        (changed("config.json", auto_map={"AutoModel": "own.Model"}), r"not executed: write a class .python://."),
        (changed("config.json", architectures=["GPT2LMHeadModelForCausalLM"]), "is for none of the tasks"),
        (changed("config.json", model_type="own"), "cannot be loaded for embeddings"),
    ],
    ids=["config", "tokenizer", "weights", "pickle", "cut", "broken", "no-tokens", "code", "generates", "unknown"],
)
def test_wrong_folders_are_told_with_the_fix(
    tmp_path: Path, folders: Callable[[str], Path], fault: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(folders("BertModel"), folder)
    fault(folder)
    with pytest.raises(ModelError, match=message):
        load(f"hf://{folder}")


def test_a_folder_or_name_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="no folder '/not/there': give its absolute path"):
        load("hf:///not/there")
    with pytest.raises(ModelError, match=r"hf://owner/name is neither in the hub's cache .* HF_TOKEN for a private"):
        load("hf://owner/name")


def test_a_model_of_strings_is_not_compiled(
    folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "sh")  # no compiler is needed to say so
    with pytest.raises(ModelError, match="takes strings, which cannot be compiled: compile the network without"):
        compile_model(f"hf://{folders('BertModel')}", tmp_path / "m.pt2", 2, lambda _: None)


@pytest.mark.parametrize("package", ["transformers", "tokenizers"])
def test_a_missing_package_names_the_extra(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    folder = folders("BertModel")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"hf:// needs {package}: pip install 'sponge-serving\[hf\]'"):
        load(f"hf://{folder}")


def test_tokens_that_the_network_does_not_know_are_told(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "m", "BertModel")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"] |= {f"more{i}": 200 + i for i in range(200)}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="they do not belong together"):
        load(f"hf://{folder}")
