"""A `config.pbtxt` of a model repository: read, and what in it Sponge follows, has no use for, or cannot do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from sponge_server.protos import model_config_pb2 as pb
from sponge_server.workers.interface import ModelError, TensorSpec

__all__ = ["Config", "read"]

_REFUSED = {
    "ensemble_scheduling": "an ensemble of models: serve each as a model of its own, or write a class that runs them",
    "sequence_batching": "requests that belong together: let the client send the state, or write a class that takes "
    "the whole sequence",
    "batch_input": "inputs that are made of the batch: write a class (python://) that makes them in preprocess",
    "batch_output": "outputs that are split by the batch: write a class (python://) with ragged outputs",
    "model_operations": "a library of operators of one's own: export the model without them",
    "model_repository_agents": "agents that change the folder: run them before, and name the folder that they made",
    "runtime": "a back end of one's own: leave it out, if the model's file is one that Sponge runs",
}
"""Parts that change what a model answers, and what to do instead."""

_WITHOUT_EFFECT = (
    *("dynamic_batching", "instance_group", "optimization", "model_warmup", "parameters", "cc_model_filenames"),
    *("metric_tags", "response_cache", "model_metrics"),
)
"""Parts that say how Triton is to run a model. Sponge chooses batches, lanes and threads itself."""

_REFUSED_OF_TENSORS = {
    "reshape": "a shape other than the model's: leave it out, and give dims as in the model",
    "is_shape_tensor": "shape tensors of TensorRT: export the model to ONNX",
    "allow_ragged_batch": "rows one after another in one dimension: write a class (python://) with a ragged input",
    "optional": "inputs that may be missing: let clients send each, or export the model without it",
    "is_non_linear_format_io": "formats of TensorRT: export the model to ONNX",
}


@dataclass(frozen=True, slots=True)
class Config:
    """What Sponge follows of a configuration.

    Attributes:
        kind: back end or platform; empty: not said.
        filename: of the model in the folder of a version; empty: the back end's usual one.
        max_batch: most rows of a batch; 0: the model has no batch; None: not said.
        inputs, outputs: as declared, shapes without the batch if there is one.
        labels: file with the names of the classes, in the model's folder.
        latest: how many of the newest versions there are; None: not said, or all.
        versions: those that there are; None: not said.
        without_effect: names of parts that Sponge has no use for.
    """

    kind: str = ""
    filename: str = ""
    max_batch: int | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    labels: str | None = None
    latest: int | None = None
    versions: tuple[int, ...] | None = None
    without_effect: tuple[str, ...] = field(default=())


def read(path: Path) -> Config:
    """Reads the file. Raises ModelError when it cannot be read, or asks for what Sponge cannot do."""
    found = pb.ModelConfig()
    try:
        text = path.read_text()
        # First with any fields, so that a part which is refused is told as that, whatever is in it.
        _refuse(path, text_format.Parse(text, pb.ModelConfig(), allow_unknown_field=True))
        text_format.Parse(text, found)
    except text_format.ParseError as error:
        # The library cannot skip lists of unknown messages: what lies in a part that is refused may stop it.
        for name, why in _REFUSED.items():
            if re.search(rf"^[^#\"']*\b{name}\s*[:{{\[]", text, re.MULTILINE):
                raise ModelError(f"'{path}' has {name}, {why}") from None
        raise ModelError(f"'{path}' cannot be read: {_plain(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"'{path}' cannot be read: {error}") from None
    if found.name and found.name != path.parent.name:
        raise ModelError(
            f"'{path}' is of a model '{found.name}', and its folder is '{path.parent.name}': give both one name"
        )
    if found.HasField("max_batch_size") and found.max_batch_size < 0:
        raise ModelError(f"'{path}': max_batch_size is {found.max_batch_size}, expected 0 (no batch) or more")
    chosen = found.version_policy.WhichOneof("choice")
    labels = [each.label_filename for each in found.output if each.label_filename]
    return Config(
        kind=found.backend or found.platform,
        filename=found.default_model_filename,
        max_batch=found.max_batch_size if found.HasField("max_batch_size") else None,
        inputs=tuple(_spec(each, f"'{path}': input") for each in found.input),
        outputs=tuple(_spec(each, f"'{path}': output") for each in found.output),
        labels=labels[0] if labels else None,
        latest=max(1, found.version_policy.latest.num_versions) if chosen == "latest" else None,
        versions=tuple(found.version_policy.specific.versions) if chosen == "specific" else None,
        without_effect=tuple(name for name in _WITHOUT_EFFECT if _has(found, name)),
    )


def _refuse(path: Path, found: Any) -> None:
    for name, why in _REFUSED.items():
        if _has(found, name):
            raise ModelError(f"'{path}' has {name}, {why}")
    if found.model_transaction_policy.decoupled:
        raise ModelError(f"'{path}': model_transaction_policy is decoupled, but a request has one answer: collect it")
    for kind, each in [("input", each) for each in found.input] + [("output", each) for each in found.output]:
        for name, why in _REFUSED_OF_TENSORS.items():
            if _has(each, name):
                raise ModelError(f"'{path}': {kind} {each.name} has {name}, {why}")


def _spec(each: Any, what: str) -> TensorSpec:
    kind = pb.DataType.Name(each.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
    if not each.name:
        raise ModelError(f"{what} without a name: write name and data_type")
    if kind == "INVALID":
        raise ModelError(f"{what} {each.name} has no data_type: write for example data_type: TYPE_FP32")
    if any(size < 1 and size != -1 for size in each.dims):
        raise ModelError(f"{what} {each.name} has dims {list(each.dims)}: give sizes, -1 for any")
    return TensorSpec(each.name, kind, tuple(each.dims))


def _has(message: Any, name: str) -> bool:
    described = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if described.is_repeated:
        return len(value) > 0
    return bool(message.HasField(name)) if described.message_type is not None else bool(value)


def _plain(error: text_format.ParseError) -> str:
    """The library's error with the line, in words."""
    text = str(error)
    place = f"line {error.GetLine()}: " if error.GetLine() is not None else ""
    text = re.sub(r"^\d+:\d+ : ", "", text)
    unknown = re.search(r'Message type "[\w.]*?(\w+)" has no field named "(\w+)"', text)
    if unknown:
        return f"{place}{unknown[1]} has no part '{unknown[2]}': correct its name, or leave it out"
    return place + text
