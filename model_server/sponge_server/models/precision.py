"""Runs a model in bfloat16 or in int8, after checking that its outputs stay the same.

bfloat16 is about twice as fast on a CPU with AVX512-BF16 or AMX, and much slower on one without. Inputs and outputs
keep their types at the API; only weights and activations are rounded.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sponge_server.models.compiled import Package
from sponge_server.models.example_rows import example_batch
from sponge_server.models.loaded import LoadedModel
from sponge_server.runtimes.examples import Examples
from sponge_server.runtimes.interface import Runtime
from sponge_server.workers.forked_call import forked_call
from sponge_server.workers.interface import ModelError
from sponge_system.cpu_flags import cpu_flags
from sponge_system.logs import event

__all__ = ["LARGEST_ERROR", "LEAST_AGREEMENT", "Accuracy", "compare", "in_dtype", "native_bf16"]

log = logging.getLogger(__name__)

LARGEST_ERROR = 0.03
"""Largest error of the outputs relative to their norm. bfloat16 keeps 8 bits of each number, about 0.4 %."""

LEAST_AGREEMENT = 0.95
"""Least share of example inputs for which the largest value of the first output keeps its place."""

_SAMPLES = 32
_CHECK_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Difference of two models. `top1`: share of equal top answers; None if the first output is not a row of scores."""

    relative_error: float
    top1: float | None
    largest_difference: float

    @property
    def good(self) -> bool:
        """Whether the difference is within the bounds above."""
        # Written so that a NaN is not good.
        return self.relative_error <= LARGEST_ERROR and (self.top1 is None or self.top1 >= LEAST_AGREEMENT)

    def __str__(self) -> str:
        top1 = "" if self.top1 is None else f", and {self.top1:.1%} of its top answers are the same"
        return f"its outputs differ by {self.relative_error:.2%} from those in fp32{top1}"


def native_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    return not cpu_flags(cpuinfo).isdisjoint(("avx512_bf16", "amx_bf16"))


def in_dtype(model: LoadedModel, dtype: str, accept_accuracy: bool, examples: Examples | None = None) -> LoadedModel:
    """The model in "fp32" (unchanged), "bf16", "int8", or "auto": in bf16 if that is fast and accurate, else unchanged.

    Args:
        examples: to compare the answers on; None: made-up rows.

    Raises:
        ModelError: what was requested is not available, or its accuracy is outside of the bounds above and
            `accept_accuracy` is not set.
    """
    if dtype == "fp32":
        return model
    wanted = "bf16" if dtype == "auto" else dtype
    try:
        other = _converted(model, wanted, examples)
    except ModelError as unfit:
        trouble = str(unfit)
    else:
        answer = forked_call(lambda: _compared(model, other, wanted, examples), _CHECK_TIMEOUT_S, f"rows in {wanted}")
        accuracy = Accuracy(**answer)
        event(
            log,
            "model.compared",
            dtype=wanted,
            relative_error=accuracy.relative_error,
            top1=accuracy.top1,
            good=accuracy.good,
        )
        if accuracy.good:
            return other
        if accept_accuracy:
            return replace(other, warning=" ".join(filter(None, (model.warning, f"in {wanted} {accuracy}"))))
        trouble = (
            f"{accuracy} on example inputs; allowed are {LARGEST_ERROR:.0%} and {LEAST_AGREEMENT:.0%}: "
            "use fp32, or accept it with --accept-accuracy"
        )
    if dtype != "auto":
        raise ModelError(f"{dtype}: {trouble}")
    event(log, "model.stays_in_fp32", why=trouble)
    return model


def compare(reference: LoadedModel, other: LoadedModel, inputs: list[torch.Tensor]) -> Accuracy:
    """Compares both models on the same inputs, on the present number of threads."""
    right, given = reference.run([tensor.clone() for tensor in inputs]), other.run([t.clone() for t in inputs])
    pairs = [(a.double(), b.double()) for (_, a), (_, b) in zip(right, given, strict=True)]
    apart = sum(float((a - b).square().sum()) for a, b in pairs)
    length = sum(float(a.square().sum()) for a, _ in pairs)
    first, second = pairs[0]
    scores = first.ndim == 2 and first.shape[1] > 1
    return Accuracy(
        largest_difference=max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0),
        relative_error=(apart / length) ** 0.5 if length else apart**0.5,
        top1=float((first.argmax(1) == second.argmax(1)).double().mean()) if scores else None,
    )


def _compared(model: LoadedModel, other: LoadedModel, dtype: str, examples: Examples | None) -> dict[str, Any]:
    rows = min(_SAMPLES, model.max_batch or _SAMPLES)
    inputs = example_batch(model, rows)
    if examples is not None:
        inputs = [torch.from_numpy(array[-rows:]) for array in examples.read()]
    try:
        accuracy = compare(model, other, inputs)
    except Exception as error:  # noqa: BLE001 - a model may raise anything in another type
        raise ModelError(
            f"{dtype}: the model fails in it ({str(error).strip().splitlines()[0][:200]}): use fp32"
        ) from None
    return asdict(accuracy)


def _converted(model: LoadedModel, dtype: str, examples: Examples | None) -> LoadedModel:
    """The model in another type, unchecked. Raises ModelError, without naming the type, if it cannot run here."""
    forward = model.forward
    if dtype == "bf16" and not native_bf16():
        raise ModelError("this CPU does not compute in it (no avx512_bf16 or amx_bf16 in /proc/cpuinfo): use fp32")
    if isinstance(forward, Runtime):
        made: Any = forward.in_dtype(dtype, examples)
    elif dtype == "int8":
        raise ModelError("torch does not compute in it here: add --runtime onnx")
    elif isinstance(forward, torch.nn.Module):
        made = _Bf16Module(copy.deepcopy(forward))
    else:
        raise ModelError(
            f"a model that runs as {model.platform} is not a torch.nn.Module that can be rounded: use fp32"
            + (", or compile it with --dtype bf16" if isinstance(forward, Package) else "")
        )
    return replace(model, forward=made, platform=f"{model.platform}, {dtype}")


class _Bf16Module(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A module in bfloat16 between inputs and outputs in fp32."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module.to(torch.bfloat16)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return _cast(self.module(*(_cast(tensor, torch.float32, torch.bfloat16) for tensor in inputs)))


def _cast(value: Any, source: torch.dtype = torch.bfloat16, target: torch.dtype = torch.float32) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(target) if value.dtype == source else value
    if isinstance(value, Mapping):
        return {name: _cast(part, source, target) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_cast(part, source, target) for part in value)
    return value
