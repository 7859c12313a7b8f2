"""`file:///path/model.pt2`: a `torch.export` program with a dynamic batch dimension, an AOTInductor package, or
TorchScript.

A file `model.pt2.json` beside it may name inputs, outputs and labels, and describe the conversion of images. For a
package, `sponge compile` writes it, with what the package was compiled for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sponge_server.models.compiled import PLATFORM, Package
from sponge_server.models.files import kind_of, no_pickles
from sponge_server.models.images import ImageTransform
from sponge_server.models.loaded import TORCH_DTYPE, LoadedModel
from sponge_server.models.source import Source
from sponge_server.models.torchscript import load_script
from sponge_server.workers.interface import ModelError, TensorSpec
from sponge_server.workers.row_size import RowSize

__all__ = [
    "Sidecar",
    "SidecarCompiled",
    "SidecarImage",
    "SidecarInput",
    "described",
    "load",
    "load_file",
    "put_in_place",
    "sidecar_path",
]

_UNBOUNDED = 2**31

_CONSTANTS = (int, float, bool, str, type(None))
"""Types of arguments that a program was exported with for good."""

_OIP = {dtype: name for name, dtype in TORCH_DTYPE.items()}


class SidecarImage(BaseModel):
    """See `ImageTransform`; `fit` is "crop" or "letterbox"."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mode: Literal["RGB", "L"]
    resize: int | None = None
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    fit: Literal["crop", "letterbox"] = "crop"
    fill: int = 114

    @model_validator(mode="after")
    def _one_way_of_resizing(self) -> SidecarImage:
        if self.fit == "letterbox" and self.resize is not None:
            raise ValueError("with fit letterbox, the whole image goes into crop: leave resize out")
        return self


class SidecarInput(BaseModel):
    """See `TensorSpec`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    datatype: Literal[
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "BF16",
        "FP32",
        "FP64",
    ]
    shape: tuple[int, ...]


class SidecarCompiled(BaseModel):
    """What an AOTInductor package was compiled for: inputs, largest batch, version of torch and level of the CPU.

    `largest_difference` of an output from the uncompiled model and `warning` are for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    inputs: tuple[SidecarInput, ...]
    max_batch: int
    channels_last: bool
    torch: str
    cpu: str
    largest_difference: float
    warning: str | None = None


class Sidecar(BaseModel):
    """What a model file does not contain. `accuracy` is for people; for `finite` see `LoadedModel`.

    `inputs`: their names, or their whole description: TorchScript needs it, and it fixes sizes of ONNX and OpenVINO.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    inputs: tuple[str, ...] | tuple[SidecarInput, ...] | None = None
    outputs: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    image: SidecarImage | None = None
    accuracy: float | None = None
    finite: bool = True
    compiled: SidecarCompiled | None = None


def load(source: Source) -> LoadedModel:
    """Loads the file. Raises ModelError when it is missing, is no such program, or has a fixed batch size."""
    source.only("allow_pickle", "batch")
    return load_file(Path(source.target), source.options.get("allow_pickle") == "true", source.flag("batch", True))


def sidecar_path(path: Path) -> Path:
    """Path of the description of the model at `path`."""
    return path.with_name(path.name + ".json")


def put_in_place(made: Path, sidecar: Sidecar, path: Path) -> None:
    """Moves a model file to `path` with its sidecar. The file comes last and marks success. Raises OSError.

    Args:
        made: on the same file system, in a folder of its own.
    """
    # Without what is as usual, servers of earlier versions read it too: the folder may be shared.
    text = sidecar.model_dump_json(indent=1, exclude_defaults=True)
    sidecar_path(made).write_text(text, encoding="utf-8")
    sidecar_path(made).replace(sidecar_path(path))
    made.replace(path)


def load_file(
    path: Path, allow_pickle: bool = False, batched: bool = True, inputs: Sequence[TensorSpec] = ()
) -> LoadedModel:
    """Loads `path` with its sidecar. Raises ModelError.

    Args:
        allow_pickle: execute the pickles of a program, which may run any code.
        batched: the first dimension of everything is the batch; if not, a request is one run.
        inputs: of TorchScript, which does not say them, if they are known from elsewhere than the sidecar.
    """
    kind = kind_of(path)
    sidecar = _read_sidecar(sidecar_path(path))
    if kind == "package":
        if not batched:
            raise ModelError(f"'{path}' was compiled with a batch: leave ?batch=false out")
        return _described(path, sidecar, _load_package(path, sidecar))
    if kind == "torchscript":
        script = load_script(path, sidecar_path(path), inputs or _script_inputs(sidecar))
        return _described(path, sidecar, replace(script, batched=batched, max_batch=None if batched else 1))
    try:
        with no_pickles(allow_pickle):
            program = torch.export.load(path)
            forward = _callable(program)
    except Exception as error:  # noqa: BLE001 - the loader raises anything for other files
        if "weights_only" in str(error) or "WeightsUnpickler" in str(error):
            raise ModelError(
                f"'{path}' holds objects besides tensors in a pickle, which may run any code: export it with tensors "
                "as inputs and constants, or trust the file and add ?allow_pickle=true"
            ) from None
        raise ModelError(
            f"'{path}' is not a torch.export program of this version of torch ({_line(error)}): save it again with "
            "torch.export.save"
        ) from None
    inputs, most = _inputs(path, program, sidecar, batched)
    size = _row_size(program, inputs) if batched else None
    model = LoadedModel(forward, inputs, "pytorch_export", max_batch=most, size=size, batched=batched)
    return _described(path, sidecar, model)


def _callable(program: Any) -> Any:
    """The program as a module that takes its inputs in order, also where it was exported with keyword arguments."""
    arguments, named = program.call_spec.in_spec.children()
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    # By leaf of the arguments: None where a tensor belongs, else the constant in a tuple.
    constants: list[tuple[Any] | None] = []
    for each in program.graph_signature.user_inputs:
        value = values.get(each, each) if isinstance(each, str) else each
        constants.append((value,) if isinstance(value, _CONSTANTS) else None)
    plain = not named.num_leaves and not any(constants) and all(child.is_leaf() for child in arguments.children())
    return program.module() if plain else _InOrder(program, constants)


class _InOrder(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A program whose arguments are put together from its inputs. Those that are no tensors stay as exported."""

    def __init__(self, program: Any, constants: list[tuple[Any] | None]) -> None:
        super().__init__()
        self.module = program.module()
        self._spec = program.call_spec.in_spec
        self._constants = constants

    def forward(self, *tensors: torch.Tensor) -> Any:
        given = iter(tensors)
        leaves = [next(given) if constant is None else constant[0] for constant in self._constants]
        arguments, named = pytree.tree_unflatten(leaves, self._spec)
        return self.module(*arguments, **named)


def _load_package(path: Path, sidecar: Sidecar) -> LoadedModel:
    compiled = sidecar.compiled
    if compiled is None:
        raise ModelError(
            f"'{path}' is an AOTInductor package, and '{sidecar_path(path)}' does not say what it was compiled for: "
            f"make both with `sponge compile SOURCE -o {path.name} --max-batch N`"
        )
    return LoadedModel(
        forward=Package(path, compiled.torch, compiled.cpu),
        inputs=tuple(TensorSpec(spec.name, spec.datatype, spec.shape) for spec in compiled.inputs),
        platform=PLATFORM,
        channels_last=compiled.channels_last,
        warning=compiled.warning,
        max_batch=compiled.max_batch,
    )


def described(path: Path, model: LoadedModel) -> LoadedModel:
    """Adds the content of the sidecar of `path` to the model. Raises ModelError when they do not fit."""
    sidecar = _read_sidecar(sidecar_path(path))
    told: Sequence[str | SidecarInput | TensorSpec] = sidecar.inputs or model.inputs
    if len(told) != len(model.inputs):
        raise ModelError(f"'{sidecar_path(path)}' describes {len(told)} inputs, the model has {len(model.inputs)}")
    inputs = tuple(_narrowed(path, spec, each) for spec, each in zip(model.inputs, told, strict=True))
    return _described(path, sidecar, replace(model, inputs=inputs))


def _narrowed(path: Path, spec: TensorSpec, told: str | SidecarInput | TensorSpec) -> TensorSpec:
    """The input with the name of the sidecar, and its sizes where the model takes any."""
    if isinstance(told, str):
        return replace(spec, name=told)
    fits = len(told.shape) == len(spec.shape) and all(a in (-1, b) for a, b in zip(spec.shape, told.shape, strict=True))
    if told.datatype != spec.datatype or not fits:
        raise ModelError(
            f"'{sidecar_path(path)}' describes input {told.name} as {told.datatype} {list(told.shape)}, the model "
            f"takes {spec.datatype} {list(spec.shape)}"
        )
    return TensorSpec(told.name, told.datatype, told.shape)


def _described(path: Path, sidecar: Sidecar, model: LoadedModel) -> LoadedModel:
    """Adds the content of the sidecar to the model."""
    image = None if sidecar.image is None else ImageTransform(**sidecar.image.model_dump())
    inputs = model.inputs
    if image is not None and not model.batched:
        raise ModelError(f"'{sidecar_path(path)}': image needs a batch: leave ?batch=false out")
    if image is not None and (len(inputs) != 1 or len(inputs[0].shape) != 3 or inputs[0].datatype != "FP32"):
        raise ModelError(
            f"'{sidecar_path(path)}': image needs a model with one FP32 input of channels x height x width"
        )
    return replace(model, output_names=sidecar.outputs, labels=sidecar.labels, image=image, finite=sidecar.finite)


def _script_inputs(sidecar: Sidecar) -> tuple[TensorSpec, ...]:
    """The described inputs; of a model for images, the one that the conversion makes."""
    described = [each for each in sidecar.inputs or () if isinstance(each, SidecarInput)]
    image = sidecar.image
    if not described and image is not None:
        name = str(sidecar.inputs[0]) if sidecar.inputs else "input"
        return (TensorSpec(name, "FP32", (3 if image.mode == "RGB" else 1, *image.crop)),)
    return tuple(TensorSpec(each.name, each.datatype, each.shape) for each in described)


def _inputs(path: Path, program: Any, sidecar: Sidecar, batched: bool) -> tuple[tuple[TensorSpec, ...], int | None]:
    """The inputs, and the most rows of a batch."""
    values = _values(program)
    given = [each.name if isinstance(each, SidecarInput) else each for each in sidecar.inputs or ()]
    names = given or [name for name, _ in values]
    if len(names) != len(values):
        raise ModelError(f"'{sidecar_path(path)}' names {len(names)} inputs, the program has {len(values)}")
    specs, most = [], None
    for name, (_, value) in zip(names, values, strict=True):
        if not isinstance(value, torch.Tensor) or value.ndim < batched or value.dtype not in _OIP:
            raise ModelError(
                f"'{path}': input {name} is not a tensor with a batch dimension of a type that can be sent; if only "
                "the batch is missing, add ?batch=false to the source"
            )
        if not batched:
            specs.append(TensorSpec(name, _OIP[value.dtype], _sizes(value.shape)))
            continue
        batch = value.shape[0]
        if isinstance(batch, int):
            raise ModelError(
                f"'{path}' was exported for batches of exactly {batch}: export it with "
                'dynamic_shapes={"'
                + name
                + '": {0: torch.export.Dim("batch", min=1)}}; if that dimension is no batch, '
                "add ?batch=false to the source"
            )
        upper = _upper(program, batch)
        most = upper if most is None or (upper is not None and upper < most) else most
        specs.append(TensorSpec(name, _OIP[value.dtype], _sizes(value.shape[1:])))
    return tuple(specs), most if batched else 1


def _sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    """With -1 for those that are free."""
    return tuple(int(size) if isinstance(size, int) else -1 for size in shape)


def _values(program: Any) -> list[tuple[str, Any]]:
    """The program's inputs by name, with the tensors that stand for them."""
    wanted = set(program.graph_signature.user_inputs)
    return [
        (n.name, n.meta["val"])
        for n in program.graph.nodes
        if n.op == "placeholder" and n.name in wanted and not isinstance(n.meta["val"], _CONSTANTS)
    ]


def _row_size(program: Any, inputs: Sequence[TensorSpec]) -> RowSize | None:
    """The size of a row, where the program was exported with one free dimension besides the batch, and its bound."""
    free = [
        (spec.name, axis, dimension)
        for spec, (_, value) in zip(inputs, _values(program), strict=True)
        for axis, dimension in enumerate(value.shape[1:])
        if not isinstance(dimension, int)
    ]
    if len({dimension.node.expr for _, _, dimension in free}) != 1:
        return None
    name, axis, dimension = free[0]
    most, allowed = _upper(program, dimension), program.range_constraints.get(dimension.node.expr)
    least = max(1, int(allowed.lower)) if allowed is not None else 1
    return None if most is None or most <= least else RowSize(name, most, least, axis)


def _upper(program: Any, batch: torch.SymInt) -> int | None:
    allowed = program.range_constraints.get(batch.node.expr)
    # Without a bound, the value is a symbolic infinity, which compares but does not convert.
    return int(allowed.upper) if allowed is not None and bool(allowed.upper < _UNBOUNDED) else None


def _read_sidecar(path: Path) -> Sidecar:
    if not path.is_file():
        return Sidecar()
    try:
        return Sidecar.model_validate_json(path.read_bytes())
    except ValidationError as invalid:
        error = invalid.errors(include_url=False)[0]
        where = ".".join(str(part) for part in error["loc"])
        raise ModelError(f"'{path}': {where} {error['msg']}".replace(":  ", ": ")) from None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
