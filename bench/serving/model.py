"""The model of a workload as every system computes it: seeded random weights, float32, in one of three runtimes.

Peers' servers import this module in their own environments, so it needs only torch, torchvision, numpy and the runtime.
The environment of a process says which workload and runtime it serves.

    python -m bench.serving.model bert onnx      # makes the files that are missing
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from bench import bert_encoder
from bench.serving.shared import CACHE, Outputs, Rows
from bench.serving.workloads import BERT, RESNET18, WORKLOADS, Served, Workload

__all__ = ["Model", "load_model", "main", "module_of"]

_FILES = {"onnx": ".onnx", "openvino": ".xml"}
_MOST_ROWS = 64


class Model:
    """A model that is ready to run."""

    def __init__(self, workload: Workload, run: Callable[[Rows], Outputs]) -> None:
        self._workload = workload
        self.run = run
        """One batch of rows of one shape."""

    def infer(self, bodies: Sequence[bytes]) -> list[bytes]:
        """One batch of requests: raw tensors in, raw float32 answers out, in the same order."""
        return [row.tobytes() for row in self.run(self._workload.batch(bodies))]


class Vectors(torch.nn.Module):  # type: ignore[misc]
    """Each text's vector of length 1."""

    def __init__(self, bert: bert_encoder.Bert) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """`ids`: [batch, tokens]."""
        return normalize(self.bert(ids))


def load_model(threads: int) -> Model:
    """The model that this process serves, on `threads` threads. Whichever thread calls it, one at a time."""
    served = Served.of_process()
    return Model(served.workload, _RUNS[served.runtime](served.workload, threads))


def module_of(workload: Workload) -> torch.nn.Module:
    """The model in torch, in inference mode."""
    module = _made(workload)
    module.load_state_dict(torch.load(workload.file(".pt"), weights_only=True))
    return module


def _made(workload: Workload) -> torch.nn.Module:
    torch.manual_seed(0)
    if workload is BERT:
        return Vectors(bert_encoder.seeded()).eval()
    import torchvision

    return torchvision.models.resnet18(weights=None).eval().to(memory_format=torch.channels_last)


def _in_torch(workload: Workload, threads: int) -> Callable[[Rows], Outputs]:
    module = module_of(workload)

    def run(rows: Rows) -> Outputs:
        torch.set_num_threads(threads)  # torch has a count for each calling thread; this costs 0.2 us
        batch = torch.from_numpy(rows)
        if workload is RESNET18:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            outputs: Outputs = module(batch).numpy()
        return outputs

    return run


def _in_onnx(workload: Workload, threads: int) -> Callable[[Rows], Outputs]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as OMP_WAIT_POLICY=passive
    path = str(workload.file(_FILES["onnx"]))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(rows: Rows) -> Outputs:
        outputs: Outputs = session.run(None, {name: rows})[0]
        return outputs

    return run


def _in_openvino(workload: Workload, threads: int) -> Callable[[Rows], Outputs]:
    import openvino

    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(str(workload.file(_FILES["openvino"])), "CPU", hints)
    request = compiled.create_infer_request()

    def run(rows: Rows) -> Outputs:
        outputs: Outputs = np.array(request.infer([rows], share_inputs=True)[0])
        return outputs

    return run


_RUNS = {"torch": _in_torch, "onnx": _in_onnx, "openvino": _in_openvino}


def main() -> None:
    """Writes the files of a workload and a runtime that are missing."""
    name, runtime = sys.argv[1:]
    workload = WORKLOADS[name]
    os.environ.update(Served(workload).environment)
    CACHE.mkdir(parents=True, exist_ok=True)
    if not workload.file(".pt").exists():
        torch.save(_made(workload).state_dict(), workload.file(".pt"))
    if not workload.file("-answers.npy").exists():
        model = load_model(1)
        answers = [np.frombuffer(model.infer([body])[0], "<f4") for body in workload.bodies()]
        np.save(workload.file("-answers.npy"), np.stack(answers))
    if runtime != "torch" and not workload.file(_FILES[runtime]).exists():
        _convert(workload, runtime)
    if workload is BERT:
        from bench.serving.hf_folder import write_folder

        write_folder(workload.file("-hf"), bert_encoder.seeded())


def _convert(workload: Workload, runtime: str) -> None:
    """Writes the model in the file format of a runtime, for any number of rows and tokens."""
    example = torch.from_numpy(workload.batches(2)[0])
    sizes = {0: torch.export.Dim("batch", min=1, max=_MOST_ROWS)}
    sizes |= {1 + axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(workload.shape) if size < 0}
    path = workload.file(_FILES[runtime])
    with torch.no_grad():
        program = torch.export.export(module_of(workload), (example,), dynamic_shapes=(sizes,))
    if runtime == "onnx":
        torch.onnx.export(program, dynamo=True, verbose=False).save(str(path))
    else:
        import openvino

        openvino.save_model(openvino.convert_model(program), str(path), compress_to_fp16=False)


if __name__ == "__main__":
    main()
