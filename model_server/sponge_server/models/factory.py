"""`python://module:factory?key=value`: your own code; the factory returns a `Model` or a `LoadedModel`.

The factory is a function or a subclass of `sponge_server.model.Model`, and gets the options as keyword arguments. The
module is imported in the fork server, so it must not start threads; `Model.setup` may.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sponge_server.model import Model
from sponge_server.models.loaded import LoadedModel
from sponge_server.models.source import Source
from sponge_server.models.user_code import close_to, imported, named_in, said
from sponge_server.workers.interface import DATATYPE_SIZE, ItemError, ModelError, TensorSpec

__all__ = ["load"]

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def load(source: Source) -> LoadedModel:
    """Calls the factory. Raises ModelError when there is none, it fails or it returns something else."""
    module_name, _, function = source.target.rpartition(":")
    if not (module_name and function):
        raise ModelError(
            f"model source '{source.url}' names no factory; write python://package.module:factory, or "
            "python:///absolute/path/to/file.py:factory"
        )
    factory = named_in(imported(module_name, source.url), function, source.url)
    options = _arguments(factory, function, source)
    try:
        made = factory(**options)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the factory is somebody's own code
        raise ModelError(f"model source '{source.url}': {function}() failed: {said(error)}") from None
    if isinstance(made, Model):
        _check_inputs(made.inputs, type(made).__name__, source)
        return _steps_of(made)
    if isinstance(made, LoadedModel):
        _check_inputs(made.inputs, f"the LoadedModel of {function}()", source)
        return made
    raise ModelError(
        f"model source '{source.url}': {function}() returned {type(made).__name__}, expected a LoadedModel or a "
        "Model: derive a class from sponge_server.model.Model, or return a LoadedModel"
    )


def _arguments(factory: Callable[..., Any], name: str, source: Source) -> dict[str, Any]:
    """The options as the factory's parameters. Raises ModelError for unknown, missing and unreadable ones."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        parameters = inspect.signature(lambda **_: None).parameters  # built in, and not described
    kinds = inspect.Parameter
    named = {p.name: p for p in parameters.values() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    unknown = sorted(source.options.keys() - named.keys())
    if unknown and not any(p.kind is kinds.VAR_KEYWORD for p in parameters.values()):
        takes = ", ".join(named) or "no options"
        raise ModelError(
            f"model source '{source.url}': unknown option '{unknown[0]}'; {name}() takes {takes}"
            + close_to(unknown[0], named)
        )
    missing = [p.name for p in named.values() if p.default is kinds.empty and p.name not in source.options]
    if missing:
        raise ModelError(f"model source '{source.url}': {name}() needs {missing[0]}: add ?{missing[0]}=VALUE")
    try:
        hints = typing.get_type_hints(factory.__init__ if isinstance(factory, type) else factory)  # type: ignore[misc]
    except Exception:  # noqa: BLE001 - a hint may name what exists for a type checker only
        hints = {}
    return {key: _value(text, hints.get(key, str), key, source) for key, text in source.options.items()}


def _value(text: str, hint: Any, key: str, source: Source) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next((part for part in typing.get_args(hint) if part is not type(None)), str)
    try:
        if hint is bool:
            return _BOOLEANS[text.lower()]
        return hint(text) if hint in (int, float, Path) else text
    except (KeyError, ValueError):
        wanted = "true or false" if hint is bool else f"a number of type {hint.__name__}"
        raise ModelError(f"model source '{source.url}': {key} is '{text}', expected {wanted}") from None


def _check_inputs(inputs: object, what: str, source: Source) -> None:
    """Raises ModelError, with an example, when they are no description of inputs."""
    where = f"model source '{source.url}': {what}"
    example = 'inputs = (Input("x", "FP32", (4,)),)'
    if not isinstance(inputs, tuple | list) or not inputs:
        raise ModelError(f"{where} declares no inputs: write for example {example}")
    for spec in inputs:
        if not isinstance(spec, TensorSpec):
            raise ModelError(f"{where} has a {type(spec).__name__} among its inputs: write for example {example}")
        if spec.datatype not in DATATYPE_SIZE and spec.datatype != "BYTES":
            known = ", ".join([*DATATYPE_SIZE, "BYTES"])
            raise ModelError(f"{where}: input {spec.name} has datatype '{spec.datatype}', expected one of {known}")
        if not all(type(size) is int and (size > 0 or size == -1) for size in spec.shape):
            raise ModelError(
                f"{where}: input {spec.name} has shape {spec.shape}: give sizes without the batch, -1 for any size"
            )
    if len({spec.name for spec in inputs}) < len(inputs):
        raise ModelError(f"{where} has two inputs of the same name: name each once")


def _steps_of(model: Model) -> LoadedModel:
    names = tuple(spec.name for spec in model.inputs)

    def forward(*tensors: torch.Tensor) -> Any:
        value: Any = {name: _array(tensor) for name, tensor in zip(names, tensors, strict=True)}
        for step in Model.steps:
            try:
                value = getattr(model, step)(value)
            except ItemError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the step is somebody's own code
                raise ItemError(f"{step}: {said(error)}") from None
        return _outputs(value)

    def setup() -> None:
        try:
            model.setup()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
            raise ModelError(f"setup: {said(error)}") from None

    return LoadedModel(
        forward,
        tuple(model.inputs),
        "python",
        output_names=model.outputs,
        labels=model.labels,
        max_batch=model.max_batch,
        finite=model.finite,
        setup=setup,
        size=model.size,
    )


def _array(tensor: torch.Tensor) -> Any:
    return tensor.numpy() if isinstance(tensor, torch.Tensor) and tensor.dtype != torch.bfloat16 else tensor


def _outputs(value: Any) -> Any:
    """What `LoadedModel.run` takes, from what `postprocess` may return. Raises ItemError."""
    if isinstance(value, Mapping):
        return {str(name): _tensor(part, str(name)) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_tensor(part, f"output {i}") for i, part in enumerate(value))
    return _tensor(value, "output")


def _tensor(value: Any, name: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach()
    try:
        if not isinstance(value, str | bytes) and (strings := np.asarray(value)).dtype.kind in "USO" and strings.ndim:
            return _string_array(strings, value)
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ItemError(
            f"its {name} is {_kind(value)}: return a torch tensor, a numpy array or nested lists of numbers or strings "
            "of equal lengths, with the batch as the first dimension"
        ) from None


def _string_array(found: Any, given: Any) -> Any:
    """Strings as an array of objects, which keeps bytes that end in zeros. Raises TypeError for other objects."""
    array = np.asarray(given, dtype=object)
    if array.shape != found.shape or not all(isinstance(each, str | bytes) for each in array.flat):
        raise TypeError
    return array


def _kind(value: Any) -> str:
    return "None (a step without return?)" if value is None else f"of type {type(value).__name__}"
