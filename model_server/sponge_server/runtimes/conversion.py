"""Models in another runtime: `onnx:` and `openvino:` files, and models of torch converted at load.

A conversion is kept by the digest of the traced program and its weights, so that the next start finds it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sponge_core.errors import needs_extra
from sponge_server.models.compiled import Package
from sponge_server.models.compiling import TOLERANCE, export
from sponge_server.models.example_rows import example_batch
from sponge_server.models.exported import described
from sponge_server.models.loaded import LoadedModel
from sponge_server.models.precision import Accuracy, compare
from sponge_server.models.source import Source
from sponge_server.runtimes.files import digest, kept
from sponge_server.runtimes.interface import Runtime
from sponge_server.runtimes.onnx_runtime import OnnxRuntime, first_line
from sponge_server.runtimes.openvino_runtime import OpenVino
from sponge_server.workers.forked_call import forked_call
from sponge_server.workers.interface import ModelError

__all__ = ["in_runtime", "load"]

_CONVERT_S = 600.0
_MOST_ROWS = 4096

_RUNTIMES: dict[str, type[OnnxRuntime] | type[OpenVino]] = {"onnx": OnnxRuntime, "openvino": OpenVino}
_READS = {"onnx": (".onnx",), "openvino": (".xml", ".onnx")}
_FILE = {"onnx": "model.onnx", "openvino": "model.xml"}


def load(source: Source) -> LoadedModel:
    """The file of a source `onnx:PATH` or `openvino:PATH`, with its sidecar. Raises ModelError."""
    source.only("batch")
    path = Path(source.target)
    reads = _READS[source.scheme]
    if path.suffix not in reads:
        raise ModelError(
            f"model source '{source.url}': {source.scheme}: reads {' and '.join(reads)} files"
            + (f"; name '{path.with_suffix('.xml').name}', which belongs to it" if path.suffix == ".bin" else "")
            + ("; for an OpenVINO model write openvino://" if path.suffix == ".xml" else "")
            + (f"; for a model of torch write file://{path}?runtime={source.scheme}" if path.suffix == ".pt2" else "")
        )
    if not path.is_file():
        raise ModelError(f"no model file '{path}'; write {source.scheme}:///absolute/path/model{reads[0]}")
    return described(path, _as_loaded(_RUNTIMES[source.scheme](path, source.flag("batch", True))))


def in_runtime(model: LoadedModel, runtime: str, url: str) -> LoadedModel:
    """The model in the runtime "torch", "onnx" or "openvino". Raises ModelError when it cannot run there.

    A model of torch is traced and converted, and its outputs are compared with the original's.
    """
    given = model.forward
    if not isinstance(given, Runtime):
        return model if runtime == "torch" else _converted(model, runtime, url)
    if isinstance(given, _RUNTIMES.get(runtime, ())):
        return model
    if isinstance(given, OnnxRuntime | OpenVino) and given.path.suffix in _READS.get(runtime, ()):
        return replace(model, forward=(other := _RUNTIMES[runtime](given.path, given.batched)), platform=other.platform)
    raise ModelError(
        f"'{url}' runs in {given.platform}, not in {runtime}: leave --runtime out, or give the model of torch"
    )


def _as_loaded(runtime: Runtime) -> LoadedModel:
    return LoadedModel(
        forward=runtime,
        inputs=tuple(runtime.inputs),
        platform=runtime.platform,
        max_batch=runtime.max_batch,
        batched=runtime.batched,
    )


def _converted(model: LoadedModel, runtime: str, url: str) -> LoadedModel:
    if isinstance(model.forward, Package):
        raise ModelError(f"'{url}' is compiled for torch: give the model that it was compiled from")
    if not model.batched:
        raise ModelError(f"'{url}' has no batch, and only a model with one is converted: leave --runtime out")
    if any(spec.datatype == "BYTES" or spec.ragged for spec in model.inputs):
        raise ModelError(
            f"'{url}' takes strings or lists, and only a network from tensors to tensors is converted: leave --runtime "
            "out, or let your class open the runtime"
        )
    found = forked_call(lambda: _convert(model, runtime), _CONVERT_S, f"the conversion to {runtime}")
    made = _RUNTIMES[runtime](Path(found["path"]))
    if len(made.inputs) != len(model.inputs):
        raise ModelError(
            f"'{url}' in {runtime} has {len(made.inputs)} inputs, not {len(model.inputs)}: it ignores some of them"
        )
    other = replace(
        model,
        forward=made,
        platform=made.platform,
        channels_last=False,
        output_names=tuple(found["outputs"]),
    )
    rows = min(2, model.max_batch or 2)
    answer = forked_call(lambda: _compared(model, other, rows), _CONVERT_S, f"example inputs in {runtime}")
    accuracy = Accuracy(**answer)
    if not accuracy.relative_error <= TOLERANCE["fp32"]:
        raise ModelError(
            f"the outputs of '{url}' differ in {runtime} by {accuracy.relative_error:.2g} of their size, allowed is "
            f"{TOLERANCE['fp32']:g}: serve it in torch"
        )
    return other


def _compared(model: LoadedModel, other: LoadedModel, rows: int) -> dict[str, Any]:
    return asdict(compare(model, other, example_batch(model, rows)))


def _convert(model: LoadedModel, runtime: str) -> dict[str, Any]:
    """Runs in a fork: the path of the converted file, and the model's own names of its outputs."""
    outputs = [name for name, _ in model.run(example_batch(model, 1))]
    program = export(model, model.max_batch or _MOST_ROWS)
    key = digest(runtime, torch.__version__, _program_digest(program))
    write = _to_onnx if runtime == "onnx" else _to_openvino
    return {
        "path": str(kept(key, lambda folder: write(program, folder / _FILE[runtime])) / _FILE[runtime]),
        "outputs": outputs,
    }


def _program_digest(program: torch.export.ExportedProgram) -> str:
    found = hashlib.sha256(str(program.graph).encode())
    for name, tensor in sorted({**program.state_dict, **program.constants}.items()):
        found.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            found.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _to_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    try:
        import onnxscript  # noqa: F401 - the exporter needs it
    except ImportError:
        raise ModelError(needs_extra("an export to ONNX", "onnxscript", "onnx")) from None
    try:
        torch.onnx.export(program, dynamo=True, verbose=False).save(str(path), external_data=True)
    except Exception as error:  # noqa: BLE001 - the exporter raises anything
        raise ModelError(
            f"torch.onnx cannot export the model ({first_line(error)}): export it yourself and serve the file as "
            "onnx:///path/model.onnx, or serve it in torch"
        ) from None


def _to_openvino(program: torch.export.ExportedProgram, path: Path) -> None:
    try:
        import openvino
    except ImportError:
        raise ModelError(needs_extra("a conversion to OpenVINO", "openvino", "openvino")) from None
    try:
        openvino.save_model(openvino.convert_model(program), str(path), compress_to_fp16=False)
    except Exception as error:  # noqa: BLE001 - so does the converter
        raise ModelError(
            f"OpenVINO cannot convert the model ({_failed_operations(error)}): convert it yourself and serve the file "
            "as openvino:///path/model.xml, or serve it in onnx or torch"
        ) from None


def _failed_operations(error: Exception) -> str:
    """The summary at the end of OpenVINO's report, which begins with a place in its own code."""
    found = re.search(r"Conversion is failed for: (.+)", str(error))
    return f"it fails for {found[1]}" if found else first_line(error)
