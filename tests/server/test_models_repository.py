"""`repository:`: folders laid out as Triton's, with configurations and without, and what is said of wrong ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import torch
from server_process import ServerProcess
from tritonclient.grpc import model_config_pb2 as theirs

from sponge_server.models.loaded import LoadedModel
from sponge_server.models.repository import looks_like_one
from sponge_server.models.source import load
from sponge_server.models.triton_config import read
from sponge_server.protos import model_config_pb2 as ours
from sponge_server.workers.interface import ModelError, TensorSpec
from sponge_server.workers.probe import probe

pytestmark = pytest.mark.torch

X = 'input [{ name: "x", data_type: TYPE_FP32, dims: [ 4 ] }]\n'
Y = 'output [{ name: "y", data_type: TYPE_FP32, dims: [ 4 ] }]\n'


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with one model `line` in version 1, without a configuration."""
    (tmp_path / "models" / "line" / "1").mkdir(parents=True)
    onnx_models.linear(tmp_path / "models" / "line" / "1" / "model.onnx")
    return tmp_path / "models"


def configured(folder: Path, text: str) -> Path:
    (folder / "line" / "config.pbtxt").write_text(text)
    return folder


def more_versions(folder: Path, *versions: int) -> None:
    for version in versions:
        shutil.copytree(folder / "line" / "1", folder / "line" / str(version))


def served(folder: Path, monkeypatch: pytest.MonkeyPatch, options: str = "") -> str:
    """The version that the source serves."""
    found: list[str] = []

    def loaded(model: Any, batched: bool, source: Any) -> LoadedModel:
        found.append(model.file.parent.name)
        return LoadedModel(torch.nn.Identity(), (TensorSpec("x", "FP32", (4,)),), "test")

    monkeypatch.setattr("sponge_server.models.repository._loaded", loaded)
    load(f"repository://{folder}{options}")
    return found[0]


def test_a_folder_without_a_configuration_is_served(folder: Path) -> None:
    assert looks_like_one(folder)
    assert looks_like_one(folder / "line")
    for source in (f"repository://{folder}", f"repository://{folder}?model=line", f"repository://{folder}/line"):
        model = load(source)
        assert (model.inputs, model.platform, model.max_batch) == (
            (TensorSpec("x", "FP32", (4,)),),
            "onnxruntime_onnx",
            None,
        )
    ((name, y),) = model.run([torch.ones(2, 4)])
    assert name == "y"
    right = onnx_models.answer_of(folder / "line" / "1" / "model.onnx", np.ones((2, 4), np.float32))
    np.testing.assert_allclose(y.numpy(), right, rtol=1e-5)


@pytest.mark.parametrize(
    ("policy", "options", "version"),
    [
        ("", "", "10"),
        ("", "?version=2", "2"),
        ("latest { num_versions: 1 }", "", "10"),
        ("latest { num_versions: 2 }", "?version=2", "2"),
        ("all { }", "?version=1", "1"),
        ("specific { versions: [ 1, 2 ] }", "", "2"),
        ("specific { versions: 1 }", "", "1"),
    ],
)
def test_the_policy_says_which_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch, policy: str, options: str, version: str
) -> None:
    more_versions(folder, 2, 10)
    (folder / "line" / "011").mkdir()
    (folder / "line" / "notes").mkdir()
    configured(folder, f"version_policy: {{ {policy} }}" if policy else "")
    assert served(folder, monkeypatch, options) == version


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ("", "?version=3", "there is no version '3'; the folder has 1, 2"),
        ("version_policy: { latest { num_versions: 1 } }", "?version=1", "has 1, 2, of which version_policy allows 2"),
        ("version_policy: { specific { versions: 7 } }", "", "version_policy names 7, the folder has 1, 2"),
        ("", "?model=other", "holds no model 'other'; it has line"),
        ("", "?name=line", "unknown option 'name'; repository:// takes model, version"),
        ('name: "lines"', "", "is of a model 'lines', and its folder is 'line': give both one name"),
        ('backend: "tensorrt"', "", "no back end 'tensorrt': export the model to ONNX"),
        ('platform: "tensorflow_savedmodel"', "", "no back end 'tensorflow_savedmodel': export the model to ONNX"),
        ('backend: "python"', "", "no back end 'python': write a class of sponge_server.model.Model"),
        ('backend: "openvino"', "", "has no model.xml; it has model.onnx: name it so, or set default_model_filename"),
        ('default_model_filename: "../m.onnx"', "", "give the name of a file without folders"),
        ("max_batch_size: -1", "", "max_batch_size is -1, expected 0 .no batch. or more"),
        ("max_batch: 8", "", "line 1: ModelConfig has no part 'max_batch': correct its name, or leave it out"),
        ('input [{ name: "x" dim: [4] }]', "", "line 1: TensorConfig has no part 'dim'"),
        ('max_batch_size: "many"', "", "line 1: .*many"),
        ("max_batch_size: 8 }", "", "config.pbtxt' cannot be read: line 1"),
        (X.replace("FP32", "FLOAT"), "", "has no value named TYPE_FLOAT"),
        ('input [{ name: "x", dims: [ 4 ] }]', "", "input x has no data_type: write for example data_type: TYPE_FP32"),
        (X.replace("4", "0"), "", r"input x has dims \[0\]: give sizes, -1 for any"),
        (
            "max_batch_size: 8\n" + X.replace('"x"', '"z"'),
            "",
            "has the inputs z, the model's file has x: name each once",
        ),
        ("max_batch_size: 8\n" + X.replace("FP32", "INT64"), "", r"x is INT64 \[4\], in the model's file FP32 \[4\]"),
        ("max_batch_size: 8\n" + X.replace("4", "5"), "", r"x is FP32 \[5\], in the model's file FP32 \[4\]"),
        ("max_batch_size: 0\n" + X, "", r"FP32 \[-1, 4\], and max_batch_size 0 means that dims have the batch"),
        (
            "ensemble_scheduling { step [{ model_name: 'a' }] }",
            "",
            "has ensemble_scheduling, an ensemble of models: serve",
        ),
        ("sequence_batching { oldest { max_candidate_sequences: 4 } }", "", "has sequence_batching, requests that"),
        ("batch_input [{ kind: BATCH_ELEMENT_COUNT }]", "", "has batch_input, inputs that are made of the batch"),
        ("batch_output [{ target_name: 'y' }]", "", "has batch_output, .* ragged outputs"),
        ("model_transaction_policy { decoupled: true }", "", "is decoupled, but a request has one answer"),
        ("model_repository_agents { agents [{ name: 'checksum' }] }", "", "has model_repository_agents"),
        ("model_operations { op_library_filename: 'a.so' }", "", "has model_operations, a library of operators"),
        ('runtime: "libmine.so"', "", "has runtime, a back end of one's own"),
        (X.replace("] }]", "], reshape { shape: [ 2, 2 ] } }]"), "", "input x has reshape, a shape other than"),
        (X.replace("] }]", "], allow_ragged_batch: true }]"), "", "input x has allow_ragged_batch, rows one after"),
        (X.replace("] }]", "], optional: true }]"), "", "input x has optional, inputs that may be missing"),
        (Y.replace("] }]", "], is_shape_tensor: true }]"), "", "output y has is_shape_tensor, shape tensors"),
        (Y.replace("] }]", "], label_filename: 'labels.txt' }]"), "", "label_filename 'labels.txt' cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_the_fix(folder: Path, config: str, options: str, message: str) -> None:
    more_versions(folder, 2)
    if config:
        configured(folder, config)
    with pytest.raises(ModelError, match=message):
        load(f"repository://{folder}{options}")


def test_a_source_is_one_model(folder: Path) -> None:
    shutil.copytree(folder / "line", folder / "another")
    with pytest.raises(
        ModelError,
        match=r"holds several models .another, line., and a source is one of them: .*\?model=another, and --model",
    ):
        load(f"repository://{folder}")


@pytest.mark.parametrize(
    ("made", "message"),
    [("", "no folder '.*/none'; write repository:///absolute/path"), ("a", "holds no model: a model repository has")],
)
def test_folders_that_are_none_are_told(tmp_path: Path, made: str, message: str) -> None:
    if made:
        (tmp_path / "none" / made).mkdir(parents=True)
        assert not looks_like_one(tmp_path / "none")
    with pytest.raises(ModelError, match=message):
        load(f"repository://{tmp_path}/none")


def test_a_model_without_versions_is_told(folder: Path) -> None:
    configured(folder, "")
    shutil.rmtree(folder / "line" / "1")
    with pytest.raises(ModelError, match=r"has no versions: put the model's file into '.*/line/1'"):
        load(f"repository://{folder}")


def test_the_configuration_bounds_batches_and_names_what_has_no_effect(folder: Path) -> None:
    more = 'output [{ name: "y", data_type: TYPE_FP32, dims: [ 4 ], label_filename: "labels.txt" }]\n'
    parts = (
        "max_batch_size: 6\ndynamic_batching { max_queue_delay_microseconds: 100 }\n"
        "instance_group [{ kind: KIND_GPU, count: 2, gpus: [ 0 ] }]\n"
        'parameters { key: "intra_op_thread_count" value { string_value: "4" } }\n'
    )
    (folder / "line" / "labels.txt").write_text("a\nb\nc\nd\n")
    head = 'name: "line"\nplatform: "onnxruntime_onnx"\n'
    model = load(f"repository://{configured(folder, head + X + more + parts)}")
    assert (model.max_batch, model.labels, model.batched) == (6, ("a", "b", "c", "d"), True)
    assert model.warning is not None
    assert "no effect have dynamic_batching, instance_group, parameters: Sponge chooses" in model.warning
    assert probe(model, 6, 60.0).outputs == (TensorSpec("y", "FP32", (4,)),)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (Y.replace('"y"', '"z"'), "config.pbtxt': the model has no output z; it has y"),
        (Y.replace("4", "3"), r"output y is FP32 \[3\], the model gave FP32 \[4\]: correct data_type and dims"),
        (Y.replace("FP32", "FP64"), r"output y is FP64 \[4\], the model gave FP32 \[4\]"),
    ],
)
def test_outputs_are_compared_with_an_answer(folder: Path, told: str, message: str) -> None:
    model = load(f"repository://{configured(folder, 'max_batch_size: 2' + chr(10) + X + told)}")
    with pytest.raises(ModelError, match=message):
        probe(model, 2, 60.0)


@pytest.mark.parametrize("size", ["max_batch_size: 0\n", ""])
def test_dims_with_the_batch_are_a_model_without_one(folder: Path, size: str) -> None:
    whole = size + X.replace("[ 4 ]", "[ -1, 4 ]") + Y.replace("[ 4 ]", "[ -1, 4 ]")
    model = load(f"repository://{configured(folder, whole)}")
    assert (model.batched, model.inputs[0].shape, model.max_batch) == (False, (-1, 4), 1)
    assert probe(model, 8, 60.0).outputs == (TensorSpec("y", "FP32", (-1, 4)),)


def test_the_configuration_may_fix_sizes(tmp_path: Path) -> None:
    (tmp_path / "m" / "line" / "1").mkdir(parents=True)
    onnx_models.one_node(tmp_path / "m" / "line" / "1" / "other.onnx", shape=("batch", "any", "size"))
    config = 'max_batch_size: 4\ndefault_model_filename: "other.onnx"\n' + X.replace("[ 4 ]", "[ 3, -1 ]")
    model = load(f"repository://{configured(tmp_path / 'm', config)}")
    assert model.inputs == (TensorSpec("x", "FP32", (3, -1)),)


def test_torchscript_has_its_inputs_from_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "m" / "line" / "1" / "model.pt"
    path.parent.mkdir(parents=True)
    torch.jit.script(torch.nn.Linear(4, 2)).save(str(path))
    with pytest.raises(
        ModelError, match=r"is TorchScript, which does not say .*: write each with name, data_type and dims"
    ):
        load(f"repository://{tmp_path}/m")
    inputs = X.replace('"x"', '"INPUT__0"')
    outputs = Y.replace('"y"', '"OUTPUT__0"').replace("4", "2")
    config = 'platform: "pytorch_libtorch"\nmax_batch_size: 8\n' + inputs + outputs
    model = load(f"repository://{configured(tmp_path / 'm', config)}")
    ((name, given),) = model.run([torch.ones(3, 4)])
    assert (name, given.shape, model.max_batch) == ("OUTPUT__0", (3, 2), 8)


def test_every_part_that_triton_knows_is_known() -> None:
    """A part that is missing in our message would be told as unknown, though it has a meaning."""

    def compare(mine: Any, other: Any, seen: set[str]) -> None:
        if other.full_name in seen or mine.full_name.endswith(".Refused"):
            return
        seen.add(other.full_name)
        assert {each.name for each in other.fields} <= {each.name for each in mine.fields}, other.full_name
        for each in other.fields:
            own = mine.fields_by_name[each.name]
            if each.message_type is not None:
                compare(own.message_type, each.message_type, seen)
            if each.enum_type is not None:
                names = {value.name for value in each.enum_type.values}
                assert names <= {value.name for value in own.enum_type.values}, each.full_name

    seen: set[str] = set()
    compare(ours.ModelConfig.DESCRIPTOR, theirs.ModelConfig.DESCRIPTOR, seen)
    assert len(seen) > 20


def test_a_configuration_of_every_part_is_read(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "config.pbtxt"
    path.write_text(
        """
        # A comment.
        name: "m"
        backend: "onnxruntime"
        max_batch_size: 8
        input { name: "x" data_type: TYPE_STRING dims: -1 format: FORMAT_NONE }
        version_policy { latest { } }
        optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }
        model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } } }
        metric_tags { key: "a" value: "b" }
        response_cache { enable: true }
        """
    )
    config = read(path)
    assert (config.kind, config.max_batch, config.latest) == ("onnxruntime", 8, 1)
    assert config.inputs == (TensorSpec("x", "BYTES", (-1,)),)
    assert config.without_effect == ("optimization", "model_warmup", "metric_tags", "response_cache")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], ServerProcess]]:
    running: list[ServerProcess] = []

    def started(source: str) -> ServerProcess:
        options = ("--model", f"line={source}", "--slo-ms", "30000", "--cores", "1", "--max-batch", "4")
        running.append(ServerProcess(tmp_path, *options))
        return running[0]

    yield started
    for each in running:
        assert each.stop() == 0


def test_a_repository_is_served_as_triton_would(folder: Path, start: Callable[[str], ServerProcess]) -> None:
    configured(folder, 'name: "line"\nbackend: "onnxruntime"\nmax_batch_size: 4\n' + X + Y)
    server = start(f"repository://{folder}")
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1] * 8}]}
    answer = server.infer("line", body)
    assert answer.status == 200, answer.body
    (output,) = json.loads(answer.body)["outputs"]
    right = onnx_models.answer_of(folder / "line" / "1" / "model.onnx", np.ones((2, 4), np.float32))
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), right, rtol=1e-4)
