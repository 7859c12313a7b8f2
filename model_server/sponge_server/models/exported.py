"""`file:///path/model.pt2`: a `torch.export` program with a dynamic batch dimension, or an AOTInductor package.

A file `model.pt2.json` beside it may name inputs, outputs and labels, and describe the conversion of images. For a
package, `sponge compile` writes it, with what the package was compiled for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from sponge_server.models.compiled import PLATFORM, Package, is_package
from sponge_server.models.images import ImageTransform
from sponge_server.models.loaded import TORCH_DTYPE, LoadedModel
from sponge_server.models.source import Source
from sponge_server.workers.interface import ModelError, TensorSpec

__all__ = ["Sidecar", "SidecarCompiled", "SidecarImage", "SidecarInput", "load", "load_file", "sidecar_path"]

_UNBOUNDED = 2**31

_OIP = {dtype: name for name, dtype in TORCH_DTYPE.items()}


class SidecarImage(BaseModel):
    """See `ImageTransform`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mode: Literal["RGB", "L"]
    resize: int | None = None
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


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
    """What a .pt2 file does not contain. `accuracy` is for people; for `finite` see `LoadedModel`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    image: SidecarImage | None = None
    accuracy: float | None = None
    finite: bool = True
    compiled: SidecarCompiled | None = None


def load(source: Source) -> LoadedModel:
    """Loads the file. Raises ModelError when it is missing, is no such program, or has a fixed batch size."""
    source.only()
    return load_file(Path(source.target))


def sidecar_path(path: Path) -> Path:
    """Path of the description of the model at `path`."""
    return path.with_name(path.name + ".json")


def load_file(path: Path) -> LoadedModel:
    """Loads `path` with its sidecar. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"no model file '{path}'; write file:///absolute/path/model.pt2")
    sidecar = _read_sidecar(sidecar_path(path))
    if is_package(path):
        return _described(path, sidecar, _load_package(path, sidecar))
    try:
        program = torch.export.load(path)
    except Exception as error:  # noqa: BLE001 - the loader raises anything for other files
        raise ModelError(
            f"'{path}' is not a torch.export program ({_line(error)}): save it with torch.export.save"
        ) from None
    inputs, most = _inputs(path, program, sidecar)
    return _described(path, sidecar, LoadedModel(program.module(), inputs, "pytorch_export", max_batch=most))


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


def _described(path: Path, sidecar: Sidecar, model: LoadedModel) -> LoadedModel:
    """Adds the content of the sidecar to the model."""
    image = None if sidecar.image is None else ImageTransform(**sidecar.image.model_dump())
    inputs = model.inputs
    if image is not None and (len(inputs) != 1 or len(inputs[0].shape) != 3 or inputs[0].datatype != "FP32"):
        raise ModelError(
            f"'{sidecar_path(path)}': image needs a model with one FP32 input of channels x height x width"
        )
    return replace(model, output_names=sidecar.outputs, labels=sidecar.labels, image=image, finite=sidecar.finite)


def _inputs(path: Path, program: Any, sidecar: Sidecar) -> tuple[tuple[TensorSpec, ...], int | None]:
    wanted = set(program.graph_signature.user_inputs)
    values = [(n.name, n.meta["val"]) for n in program.graph.nodes if n.op == "placeholder" and n.name in wanted]
    names = sidecar.inputs or tuple(name for name, _ in values)
    if len(names) != len(values):
        raise ModelError(f"'{sidecar_path(path)}' names {len(names)} inputs, the program has {len(values)}")
    specs, most = [], None
    for name, (_, value) in zip(names, values, strict=True):
        if not isinstance(value, torch.Tensor) or value.ndim < 1 or value.dtype not in _OIP:
            raise ModelError(
                f"'{path}': input {name} is not a tensor with a batch dimension of a type that can be sent"
            )
        batch = value.shape[0]
        if isinstance(batch, int):
            raise ModelError(
                f"'{path}' was exported for batches of exactly {batch}: export it with "
                'dynamic_shapes={"' + name + '": {0: torch.export.Dim("batch", min=1)}}'
            )
        upper = _upper(program, batch)
        most = upper if most is None or (upper is not None and upper < most) else most
        shape = tuple(int(d) if isinstance(d, int) else -1 for d in value.shape[1:])
        specs.append(TensorSpec(name, _OIP[value.dtype], shape))
    return tuple(specs), most


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
