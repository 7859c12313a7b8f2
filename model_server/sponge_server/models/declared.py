"""What a class of one's own declares, checked at load, and what its steps return, checked for every batch.

Messages name the declaration or the step that is wrong, and what to write instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sponge_server.model import Model
from sponge_server.models.loaded import LENGTHS, TORCH_DTYPE, Output
from sponge_server.workers.interface import DATATYPE_SIZE, ItemError, ModelError, TensorSpec

__all__ = ["answer", "as_arrays", "check_declared", "check_inputs", "name_of"]

_PIXELS = {"RGB": (-1, -1, 3), "L": (-1, -1)}


def name_of(output: str | TensorSpec) -> str:
    """The name of a declared output."""
    return output.name if isinstance(output, TensorSpec) else output


def check_declared(model: Model, where: str) -> None:
    """Raises ModelError, which begins with `where`, when declarations of a class do not fit together."""
    check_inputs(model.inputs, where)
    outputs = model.outputs
    if isinstance(outputs, str) or not isinstance(outputs, tuple | list | None):
        raise ModelError(f'{where}: outputs is of type {type(outputs).__name__}: write outputs = ("{outputs}",)')
    for each in outputs or ():
        if not isinstance(each, str | TensorSpec):
            raise ModelError(f"{where} has a {type(each).__name__} among its outputs: give names, or an Output each")
        if isinstance(each, TensorSpec):
            _check_spec(each, f"{where}: output")
            if each.ragged and (not each.shape or each.shape[0] != -1):
                raise ModelError(
                    f"{where}: output {each.name} is ragged with rows of shape {each.shape}: the first size of a "
                    "ragged row is its number of entries, -1"
                )
    names = [name_of(each) for each in outputs or ()]
    lengths = [each.name + LENGTHS for each in outputs or () if isinstance(each, TensorSpec) and each.ragged]
    if len({*names, *lengths}) < len(names) + len(lengths):
        raise ModelError(
            f"{where} has two outputs of the same name: name each once; a ragged one also has NAME{LENGTHS}"
        )
    ragged = [spec.name for spec in (*model.inputs, *(outputs or ())) if isinstance(spec, TensorSpec) and spec.ragged]
    if not model.batch and ragged:
        raise ModelError(
            f"{where}: {ragged[0]} is ragged, but with batch = False there are no rows: remove one of the two"
        )
    if model.image is not None:
        _check_image(model, where)


def _check_image(model: Model, where: str) -> None:
    shape = _PIXELS.get(model.image or "")
    if shape is None:
        raise ModelError(f"{where}: image is '{model.image}', expected one of {', '.join(_PIXELS)}")
    spec = model.inputs[0]
    if len(model.inputs) > 1 or (spec.datatype, spec.shape) != ("UINT8", shape) or not model.batch:
        raise ModelError(
            f'{where}: with image = "{model.image}" its only input is pixels, and it has a batch: write '
            f'inputs = (Input("{spec.name}", "UINT8", {shape}, ragged=True),)'
        )


def check_inputs(inputs: object, where: str) -> None:
    """Raises ModelError, with an example, when they are no description of inputs. `where` begins the message."""
    example = 'inputs = (Input("x", "FP32", (4,)),)'
    if not isinstance(inputs, tuple | list) or not inputs:
        raise ModelError(f"{where} declares no inputs: write for example {example}")
    for spec in inputs:
        if not isinstance(spec, TensorSpec):
            raise ModelError(f"{where} has a {type(spec).__name__} among its inputs: write for example {example}")
        _check_spec(spec, f"{where}: input")
        if spec.ragged and -1 not in spec.shape:
            raise ModelError(
                f"{where}: input {spec.name} is ragged, but all its rows have shape {spec.shape}: write -1 for the "
                "sizes that differ"
            )
    if len({spec.name for spec in inputs}) < len(inputs):
        raise ModelError(f"{where} has two inputs of the same name: name each once")


def _check_spec(spec: TensorSpec, what: str) -> None:
    if spec.datatype not in DATATYPE_SIZE and spec.datatype != "BYTES":
        known = ", ".join([*DATATYPE_SIZE, "BYTES"])
        raise ModelError(f"{what} {spec.name} has datatype '{spec.datatype}', expected one of {known}")
    if not isinstance(spec.shape, tuple | list) or not all(
        type(size) is int and (size > 0 or size == -1) for size in spec.shape
    ):
        raise ModelError(f"{what} {spec.name} has shape {spec.shape}: give sizes without the batch, -1 for any size")


def as_arrays(given: Any) -> Any:
    """An input as the steps of a class take it."""
    if isinstance(given, list):
        return [as_arrays(row) for row in given]
    return given.numpy() if isinstance(given, torch.Tensor) and given.dtype != torch.bfloat16 else given


def answer(value: Any, declared: Sequence[str | TensorSpec] | None, batched: bool = True) -> Any:
    """What `LoadedModel.run` takes, from what the last step returned. Raises ItemError."""
    if declared is None:
        if isinstance(value, Mapping):
            return {str(name): _tensor(part, str(name)) for name, part in value.items()}
        if isinstance(value, tuple):
            return tuple(_tensor(part, f"output {i}") for i, part in enumerate(value))
        return _tensor(value, "output")
    names = [name_of(each) for each in declared]
    if isinstance(value, Mapping):
        if {str(name) for name in value} != set(names):
            given = ", ".join(map(str, value)) or "nothing"
            raise ItemError(f"the model returned {given}; its outputs are declared as {', '.join(names)}: give those")
        parts = [value[name] for name in names]
    else:
        parts = list(value) if isinstance(value, tuple) or (isinstance(value, list) and len(names) > 1) else [value]
    if len(parts) != len(names):
        raise ItemError(
            f"the model returned {len(parts)} outputs, its description names {len(names)}: {', '.join(names)}"
        )
    return {name: _declared(part, each, batched) for name, part, each in zip(names, parts, declared, strict=True)}


def _declared(value: Any, output: str | TensorSpec, batched: bool) -> Output:
    if isinstance(output, str):
        return _tensor(value, output)
    if not output.ragged:
        return _typed(value, output, f"its {output.name}", [-1, *output.shape] if batched else list(output.shape))
    if not isinstance(value, list | tuple | np.ndarray | torch.Tensor):
        raise ItemError(f"its {output.name} is {_kind(value)}: a ragged output is a list with an array for each row")
    sizes = list(output.shape)
    return [_typed(row, output, f"row {index} of its {output.name}", sizes) for index, row in enumerate(value)]


def _typed(value: Any, spec: TensorSpec, what: str, sizes: list[int]) -> Any:
    """An output, or a row of a ragged one, with the declared datatype and the shape `sizes`. Raises ItemError."""
    if len(value) == 0 if isinstance(value, list | tuple) else getattr(value, "shape", None) == (0,):
        value = np.empty([max(size, 0) for size in sizes], object)  # an empty list says neither type nor shape
    tensor = _tensor(value, spec.name) if not isinstance(value, np.ndarray) or value.dtype != object else value
    if spec.datatype != "BYTES" and isinstance(tensor, np.ndarray) and not tensor.size:
        tensor = torch.empty(tensor.shape, dtype=TORCH_DTYPE[spec.datatype])
    found = list(tensor.shape)
    if len(found) != len(sizes) or any(wanted not in (-1, size) for wanted, size in zip(sizes, found, strict=True)):
        raise ItemError(f"{what} has shape {found}, declared is {sizes}: give that, or declare it otherwise")
    if isinstance(tensor, np.ndarray) == (spec.datatype == "BYTES"):
        if isinstance(tensor, np.ndarray):
            return _string_array(tensor, tensor)
        dtype = TORCH_DTYPE[spec.datatype]
        if tensor.dtype == dtype or _keeps(tensor, dtype):
            return tensor.to(dtype)
    kind = "strings" if isinstance(tensor, np.ndarray) else str(tensor.dtype).removeprefix("torch.")
    raise ItemError(f"{what} is of {kind}, declared is {spec.datatype}: convert it, or declare it otherwise")


def _keeps(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether numbers stay what they are in this type, but for rounding: fractions need floats, large numbers room."""
    if tensor.is_floating_point() or dtype.is_floating_point:
        return bool(dtype.is_floating_point)
    if torch.bool in (tensor.dtype, dtype):
        return bool(dtype != torch.bool)
    limits = torch.iinfo(dtype)
    return not tensor.numel() or (int(tensor.min()) >= limits.min and int(tensor.max()) <= limits.max)


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
            "of equal lengths, with the batch as the first dimension; where each row has its own length, declare "
            f'outputs = (Output("{name}", "FP32", (-1,), ragged=True),) with its type and shape'
        ) from None


def _string_array(found: Any, given: Any) -> Any:
    """Strings as an array of objects, which keeps bytes that end in zeros. Raises TypeError for other objects."""
    array = np.asarray(given, dtype=object)
    if array.shape != found.shape or not all(isinstance(each, str | bytes) for each in array.flat):
        raise TypeError
    return array


def _kind(value: Any) -> str:
    return "None (a step without return?)" if value is None else f"of type {type(value).__name__}"
