"""Compiles a model ahead of time: export, AOTInductor, comparison with the original, files.

It never runs in a serving process: compiling takes half a minute, all cores and a C++ compiler.
"""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sponge_server.models.compiled import PLATFORM, Package
from sponge_server.models.example_rows import example_batch
from sponge_server.models.exported import Sidecar, SidecarCompiled, SidecarImage, SidecarInput, put_in_place
from sponge_server.models.images import ImageTransform
from sponge_server.models.loaded import LoadedModel
from sponge_server.models.precision import Accuracy, compare
from sponge_server.models.source import load
from sponge_server.workers.interface import ModelError

__all__ = ["Compiled", "compile_model", "export"]

TOLERANCE = {"fp32": 1e-4, "bf16": 0.02}
"""Largest relative error compared with the uncompiled model. Another order of summation causes about 1e-6; in bf16 the
compiler also rounds in other places."""

CONFIGURATION = {
    # Thread counts change with every batch. Without this, reductions use the thread count at compile time.
    "cpp.dynamic_threads": True,
    # Folds batch normalisation into convolutions and packs weights for the CPU.
    "freezing": True,
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """The result: its size, and the difference of its outputs from the uncompiled model. `checked`: (rows, threads)."""

    path: Path
    size_bytes: int
    max_batch: int
    largest_difference: float
    relative_error: float
    checked: tuple[tuple[int, int], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        checked = [{"rows": rows, "threads": threads} for rows, threads in self.checked]
        return {**asdict(self), "path": str(self.path), "checked": checked}


def compile_model(url: str, output: Path, max_batch: int, step: Callable[[str], None]) -> Compiled:
    """Writes `output` and its description. `step` is called with the name of each step.

    Raises:
        ModelError: the model cannot be loaded, exported or compiled, or its outputs differ when compiled. Nothing is
            written then.
    """
    if output.suffix != ".pt2":
        raise ModelError(f"'{output}': the file of a compiled model must end in .pt2")
    if max_batch < 1:
        raise ModelError(f"batches of {max_batch}: give at least 1")
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ModelError("compiling needs a C++ compiler: apt-get install g++, or set CXX to yours")
    step(f"loading {url}")
    model = load(url)
    if model.platform == PLATFORM:
        raise ModelError(f"'{url}' is compiled already")
    if any(spec.datatype == "BYTES" for spec in model.inputs):
        raise ModelError(f"'{url}' takes strings, which cannot be compiled: compile the network without its tokenizer")
    if not model.batched or any(spec.ragged for spec in model.inputs):
        raise ModelError(f"'{url}' has no batch in one tensor, which compiling needs: serve it uncompiled")
    if model.max_batch is not None and model.max_batch < max_batch:
        raise ModelError(f"'{url}' accepts at most {model.max_batch} rows: compile it for at most as many")
    step("exporting")
    program = export(model, max_batch)
    with tempfile.TemporaryDirectory(dir=_directory(output)) as scratch:
        half = Path(scratch) / output.name
        step("compiling, which takes about half a minute")
        _compile(program, half)
        step("comparing its outputs with those of the original")
        made = Package(half, torch.__version__, torch.backends.cpu.get_cpu_capability())
        compiled = replace(model, forward=made, platform=PLATFORM, max_batch=max_batch)
        report = _checked(model, compiled, max_batch, output)
        put_in_place(half, _sidecar(compiled, report), output)
    return replace(report, size_bytes=output.stat().st_size)


def _directory(output: Path) -> Path:
    directory = output.resolve().parent
    if not directory.is_dir():
        raise ModelError(f"'{output}': there is no directory {directory}; create it first")
    return directory


def export(model: LoadedModel, max_batch: int) -> torch.export.ExportedProgram:
    """The model as a program for batches of 1 to `max_batch`. Raises ModelError when it cannot be traced."""
    batch = torch.export.Dim("batch", min=1, max=max_batch) if max_batch > 1 else None
    shapes: list[dict[int, Any]] = [
        ({0: batch} if batch is not None else {})
        | {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(spec.shape, start=1) if size < 0}
        for spec in model.inputs
    ]
    module = model.forward if isinstance(model.forward, torch.nn.Module) else _Module(model.forward)
    try:
        # Unused gradients would keep the weights from being folded.
        with torch.no_grad():
            return torch.export.export(
                module, tuple(example_batch(model, min(2, max_batch))), dynamic_shapes=_as_given(module, shapes)
            )
    except Exception as error:  # noqa: BLE001 - tracing a model raises anything
        raise ModelError(
            f"torch.export cannot trace the model for batches of 1 to {max_batch}: {_line(error)}"
        ) from None


def _as_given(module: torch.nn.Module, shapes: list[dict[int, Any]]) -> Any:
    """Shapes as the exporter expects them: inputs that the module takes as `*inputs` are one argument."""
    return (tuple(shapes),) if isinstance(module, _Module) or _takes_any_number(module) else tuple(shapes)


def _takes_any_number(module: torch.nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)


def _compile(program: torch.export.ExportedProgram, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    try:
        with torch.no_grad():
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=dict(CONFIGURATION))
    except Exception as error:  # noqa: BLE001 - so does the compiler
        raise ModelError(f"AOTInductor cannot compile the model: {_line(error)}") from None


def _checked(model: LoadedModel, compiled: LoadedModel, max_batch: int, output: Path) -> Compiled:
    """Compares both models at the ends and in the middle of the batch range, on one thread and on all."""
    sizes = [(rows, k) for rows in sorted({1, -(-max_batch // 2), max_batch}) for k in sorted({1, _most_threads()})]
    worst, largest = 0.0, 0.0
    for rows, threads in sizes:
        torch.set_num_threads(threads)
        inputs = example_batch(model, rows)
        accuracy: Accuracy = compare(model, compiled, inputs)
        allowed = TOLERANCE["bf16" if model.platform.endswith("bf16") else "fp32"]
        if not accuracy.relative_error <= allowed:
            raise ModelError(
                f"the outputs of the compiled model differ: {accuracy.relative_error:.2g} relative to its outputs for "
                f"{rows} rows on {threads} threads, allowed is {allowed:g}; serve it uncompiled"
            )
        worst, largest = max(worst, accuracy.relative_error), max(largest, accuracy.largest_difference)
    return Compiled(output, 0, max_batch, largest, worst, tuple(sizes))


def _most_threads() -> int:
    return len(os.sched_getaffinity(0))


def _sidecar(model: LoadedModel, report: Compiled) -> Sidecar:
    rows = example_batch(model, 1)
    image = model.image
    return Sidecar(
        outputs=tuple(name for name, _ in model.run(rows)),
        labels=model.labels,
        image=SidecarImage.model_validate(asdict(image)) if isinstance(image, ImageTransform) else None,
        finite=model.finite,
        compiled=SidecarCompiled(
            inputs=tuple(
                SidecarInput.model_validate({"name": spec.name, "datatype": spec.datatype, "shape": spec.shape})
                for spec in model.inputs
            ),
            max_batch=report.max_batch,
            channels_last=model.channels_last,
            torch=torch.__version__,
            cpu=torch.backends.cpu.get_cpu_capability(),
            largest_difference=report.largest_difference,
            warning=model.warning,
        ),
    )


class _Module(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A plain function as a module, which the exporter needs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self._function(*inputs)


def _line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
