"""`repository:///models?model=NAME&version=N`: a model of a folder that is laid out as Triton's model repository.

The folder holds `NAME/1/model.onnx`, with one folder for each version, and perhaps `NAME/config.pbtxt`. The path may
also be that of the model, `/models/NAME`. The newest version is served, unless the policy of the configuration or the
option `version` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from sponge_server.models.exported import load_file
from sponge_server.models.loaded import LoadedModel
from sponge_server.models.source import Source, load_kind, parse
from sponge_server.models.triton_config import Config, read
from sponge_server.workers.interface import ModelError, TensorSpec

__all__ = ["load", "looks_like_one"]

CONFIG = "config.pbtxt"

_KINDS = {
    "onnxruntime": ("onnxruntime", "model.onnx"),
    "onnxruntime_onnx": ("onnxruntime", "model.onnx"),
    "openvino": ("openvino", "model.xml"),
    "pytorch": ("pytorch", "model.pt"),
    "pytorch_libtorch": ("pytorch", "model.pt"),
    "pytorch_export": ("pytorch", "model.pt2"),
}
"""By back end or platform of a configuration: what runs it, and the usual name of its file."""

_SCHEMES = {".onnx": "onnx", ".xml": "openvino", ".pt": "file", ".pt2": "file"}
"""By ending of a model's file: how it is loaded."""

_INSTEAD = {
    "python": "write a class of sponge_server.model.Model around its code, and serve it as python:///path/model.py:Class",
    "ensemble": "serve each of its models, or write a class that runs them",
}


@dataclass(frozen=True, slots=True)
class _Found:
    """A model's folder, its configuration and the file of the version to serve."""

    folder: Path
    config: Config
    version: int
    file: Path


def looks_like_one(folder: Path) -> bool:
    """Whether the folder is a repository, or a model of one."""
    return _is_model(folder) or any(map(_is_model, folder.iterdir()))


def load(source: Source) -> LoadedModel:
    """Loads the model. Raises ModelError, which says what to write where the folder or its configuration is wrong."""
    source.only("model", "version")
    folder = _model_folder(Path(source.target), source)
    path = folder / CONFIG
    config = read(path) if path.is_file() else Config()
    version = _version(folder, config, source)
    found = _Found(folder, config, version, _file(folder / str(version), config))
    batched = config.max_batch != 0
    model = _loaded(found, batched, source)
    if config.max_batch is None and batched and _has_whole_shapes(config.inputs, model.inputs):
        model = _loaded(found, False, source)
    return _as_configured(model, found)


def _model_folder(path: Path, source: Source) -> Path:
    if not path.is_dir():
        raise ModelError(f"no folder '{path}'; write repository:///absolute/path?model=NAME")
    wanted = source.options.get("model")
    if _is_model(path) and wanted in (None, path.name):
        return path
    models = sorted(each for each in path.iterdir() if _is_model(each))
    names = ", ".join(each.name for each in models)
    if not models:
        raise ModelError(
            f"'{path}' holds no model: a model repository has a folder NAME/1 with the model's file, such as model.onnx"
        )
    if wanted is None and len(models) > 1:
        raise ModelError(
            f"'{path}' holds several models ({names}), and a source is one of them: write "
            f"{source.url.partition('?')[0]}?model={models[0].name}, and --model once for each that is to be served"
        )
    chosen = [each for each in models if wanted in (None, each.name)]
    if not chosen:
        raise ModelError(f"'{path}' holds no model '{wanted}'; it has {names}")
    return chosen[0]


def _is_model(folder: Path) -> bool:
    return folder.is_dir() and ((folder / CONFIG).is_file() or bool(_versions(folder)))


def _versions(folder: Path) -> list[int]:
    """Numbers of the versions, ascending. As in Triton, other folders and those with a leading zero are none."""
    names = [each.name for each in folder.iterdir() if each.is_dir()]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and not name.startswith("0"))


def _version(folder: Path, config: Config, source: Source) -> int:
    there = _versions(folder)
    if not there:
        raise ModelError(f"'{folder}' has no versions: put the model's file into '{folder}/1'")
    allowed = there[-config.latest :] if config.latest is not None else there
    if config.versions is not None:
        allowed = sorted(set(there) & set(config.versions))
    said = ", ".join(map(str, there))
    if not allowed:
        raise ModelError(
            f"'{folder / CONFIG}': version_policy names {', '.join(map(str, config.versions or ()))}, the folder has "
            f"{said}: name one of those"
        )
    wanted = source.options.get("version")
    if wanted is None:
        return allowed[-1]
    if wanted not in map(str, allowed):
        which = "" if allowed == there else f", of which version_policy allows {', '.join(map(str, allowed))}"
        raise ModelError(f"model source '{source.url}': there is no version '{wanted}'; the folder has {said}{which}")
    return int(wanted)


def _file(folder: Path, config: Config) -> Path:
    kind = _KINDS.get(config.kind)
    where = f"'{folder.parent / CONFIG}'"
    if config.kind and kind is None:
        instead = _INSTEAD.get(config.kind, 'export the model to ONNX, and write backend: "onnxruntime"')
        raise ModelError(f"{where}: Sponge has no back end '{config.kind}': {instead}")
    names = [config.filename] if config.filename else [kind[1]] if kind else [f"model{end}" for end in _SCHEMES]
    if any(Path(name).name != name for name in names):
        raise ModelError(f"{where}: default_model_filename is '{names[0]}': give the name of a file without folders")
    there = [folder / name for name in names if (folder / name).is_file()]
    if not there:
        has = ", ".join(sorted(each.name for each in folder.iterdir())) or "nothing"
        raise ModelError(
            f"'{folder}' has no {' or '.join(names)}; it has {has}: name it so, or set default_model_filename"
        )
    if there[0].suffix not in _SCHEMES:
        raise ModelError(f"'{there[0]}': a model's file ends in {', '.join(_SCHEMES)}: name it so")
    return there[0]


def _loaded(found: _Found, batched: bool, source: Source) -> LoadedModel:
    if found.file.suffix == ".pt":
        if not found.config.inputs:
            raise ModelError(
                f"'{found.file}' is TorchScript, which does not say what its inputs look like: write each with name, "
                f"data_type and dims into '{found.folder / CONFIG}', in the order of its arguments"
            )
        return load_file(found.file, batched=batched, inputs=found.config.inputs)
    url = f"{_SCHEMES[found.file.suffix]}://{quote(str(found.file))}"
    options = {} if batched else {"batch": "false"}
    return load_kind(replace(parse(url), url=source.url, options=options))


def _has_whole_shapes(told: Sequence[TensorSpec], inputs: Sequence[TensorSpec]) -> bool:
    """Whether the declared inputs have the batch among their dims."""
    by_name = {spec.name: spec for spec in inputs}
    pairs = [(spec, by_name[spec.name]) for spec in told if spec.name in by_name]
    return bool(pairs) and all(len(one.shape) == len(other.shape) + 1 for one, other in pairs)


def _as_configured(model: LoadedModel, found: _Found) -> LoadedModel:
    """The model with the sizes, names, labels and largest batch of its configuration. Raises ModelError."""
    config, where = found.config, f"'{found.folder / CONFIG}'"
    inputs = _narrowed(model, config.inputs, where) if config.inputs else model.inputs
    most = model.max_batch
    if config.max_batch:
        if most is not None and most < config.max_batch:
            raise ModelError(
                f"{where}: max_batch_size is {config.max_batch}, but '{found.file.name}' takes {most} rows at most: "
                f"write max_batch_size: {most}"
            )
        most = config.max_batch
    names = model.output_names
    if config.outputs and found.file.suffix == ".pt":
        names = tuple(spec.name for spec in config.outputs)
    warning = model.warning
    if config.without_effect:
        names_of = ", ".join(config.without_effect)
        text = f"{where}: no effect have {names_of}: Sponge chooses batches, lanes and threads itself"
        warning = f"{warning} {text}" if warning else text
    labels = model.labels
    if config.labels is not None:
        labels = _labels(found.folder / config.labels, where)
    return replace(
        model,
        inputs=inputs,
        output_names=names,
        labels=labels,
        max_batch=most,
        warning=warning,
        expected=config.outputs,
        expected_by=where,
    )


def _narrowed(model: LoadedModel, told: Sequence[TensorSpec], where: str) -> tuple[TensorSpec, ...]:
    by_name = {spec.name: spec for spec in told}
    if by_name.keys() != {spec.name for spec in model.inputs} or len(by_name) < len(told):
        raise ModelError(
            f"{where} has the inputs {', '.join(spec.name for spec in told)}, the model's file has "
            f"{', '.join(spec.name for spec in model.inputs)}: name each once"
        )
    for spec in model.inputs:
        one = by_name[spec.name]
        fits = len(one.shape) == len(spec.shape) and all(
            size in (-1, wanted) for size, wanted in zip(spec.shape, one.shape, strict=True)
        )
        if one.datatype != spec.datatype or not fits:
            batch = "" if model.batched else ", and max_batch_size 0 means that dims have the batch, too"
            raise ModelError(
                f"{where}: input {spec.name} is {one.datatype} {list(one.shape)}, in the model's file "
                f"{spec.datatype} {list(spec.shape)}{batch}: correct data_type and dims"
            )
    return tuple(replace(spec, shape=by_name[spec.name].shape) for spec in model.inputs)


def _labels(path: Path, where: str) -> tuple[str, ...]:
    try:
        return tuple(line for line in path.read_text().splitlines() if line)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{where}: label_filename '{path.name}' cannot be read: {error}") from None
