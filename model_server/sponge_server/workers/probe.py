"""What a loaded model answers: names, types and shapes of its outputs, from tiny batches that another process runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sponge_server.workers.forked_call import forked_call
from sponge_server.workers.interface import ItemError, ModelError, TensorSpec

if TYPE_CHECKING:
    from sponge_server.models.loaded import LoadedModel

__all__ = ["Probed", "probe"]

_LARGER = (32, 64, 128, 256)
"""What examples have in a dimension of any size if the model does not run with less: networks for images halve theirs
up to eight times."""

_MOST_ELEMENTS = 1 << 24


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found.

    Attributes:
        any_size: what examples need in a dimension that accepts any size.
        warning: about NaN or Inf in an answer.
    """

    outputs: tuple[TensorSpec, ...]
    any_size: int
    warning: str | None


def probe(model: LoadedModel, max_batch: int, example_s: float) -> Probed:
    """Runs batches of one row and of two. Raises ModelError with the model's own error."""
    answer = forked_call(
        lambda: _run(model, max_batch if model.batched else 1), example_s, "an example input", "--example-s"
    )
    outputs = tuple(TensorSpec(o["name"], o["datatype"], tuple(o["shape"]), o["ragged"]) for o in answer["outputs"])
    if len({spec.name for spec in outputs}) < len(outputs):
        names = ", ".join(spec.name for spec in outputs)
        raise ModelError(f"two of its outputs have the same name ({names}): rename one")
    _check_expected(model, outputs)
    name = answer["not_finite"]
    if name is None:
        return Probed(outputs, answer["any_size"], None)
    return Probed(
        outputs,
        answer["any_size"],
        f"its output '{name}' has NaN or Inf for a made-up input (floats from 0 to 1, all others 0). Requests with "
        "such answers get an error; if the model means it, set finite to false in its sidecar or LoadedModel.",
    )


def _check_expected(model: LoadedModel, outputs: tuple[TensorSpec, ...]) -> None:
    found = {spec.name: spec for spec in outputs}
    for spec in model.expected:
        one = found.get(spec.name)
        if one is None:
            raise ModelError(f"{model.expected_by}: the model has no output {spec.name}; it has {', '.join(found)}")
        fits = len(one.shape) == len(spec.shape) and all(
            -1 in (given, wanted) or given == wanted for given, wanted in zip(one.shape, spec.shape, strict=True)
        )
        if one.datatype != spec.datatype or not fits:
            raise ModelError(
                f"{model.expected_by}: output {spec.name} is {spec.datatype} {list(spec.shape)}, the model gave "
                f"{one.datatype} {list(one.shape)}: correct data_type and dims"
            )


def _run(model: LoadedModel, max_batch: int) -> dict[str, Any]:
    from sponge_server.models.loaded import datatype_of

    if model.setup is not None:
        model.setup()
    model, named = _first(model)
    shapes = _shapes(named, _other_sizes(model))
    not_finite: str | None = None
    for rows in sorted({1, min(2, max_batch)}):  # one row and two, because the batch dimension must be free
        if rows > 1:
            named = _outputs(model, rows)
        if model.finite:
            not_finite = next((name for name, output in named if not _finite(output)), not_finite)
    described = [
        {"name": name, "datatype": datatype_of(output), "shape": shape, "ragged": isinstance(output, list)}
        for (name, output), shape in zip(named, shapes, strict=True)
    ]
    return {"outputs": described, "any_size": model.any_size, "not_finite": not_finite}


def _first(model: LoadedModel) -> tuple[LoadedModel, list[tuple[str, Any]]]:
    """The model with sizes of examples that it runs with, and its answer to one row."""
    try:
        return model, _outputs(model, 1)
    except ModelError as error:
        refused = error
    tried = []
    for size in _LARGER if _is_free(model) and model.size is None else ():
        larger = replace(model, any_size=size)
        if all(math.prod(size if d < 0 else d for d in spec.shape) <= _MOST_ELEMENTS for spec in model.inputs):
            try:
                return larger, _outputs(larger, 1)
            except ModelError:
                tried.append(size)
    more = f" (with {model.any_size} in each dimension of any size; nor with {', '.join(map(str, tried))})"
    raise ModelError(f"{refused}{more if tried else ''}")


def _outputs(model: LoadedModel, rows: int) -> list[tuple[str, Any]]:
    from sponge_server.models.loaded import datatype_of
    from sponge_server.workers.worker import example_inputs

    try:
        named = model.run(example_inputs(model, rows))
        unsendable = [f"{name} ({output.dtype})" for name, output in named if datatype_of(output) is None]
        if unsendable:
            raise ItemError(f"output {unsendable[0]} has a type that cannot be sent: convert it")
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        text = str(error).strip()[:500] or type(error).__name__
        raise ModelError(f"the model fails on an example batch of {rows}: {text}") from None
    return named


def _is_free(model: LoadedModel) -> bool:
    return any(size < 0 for spec in model.inputs for size in spec.shape)


def _other_sizes(model: LoadedModel) -> list[tuple[str, Any]] | None:
    """The answer to a row of another size; None if the model takes one size."""
    if not _is_free(model):
        return None
    size = model.size
    other = replace(model, any_size=2 * model.any_size, size=None if size is None else replace(size, least=size.most))
    try:
        return _outputs(other, 1)
    except ModelError:
        return None


def _shapes(named: list[tuple[str, Any]], other: list[tuple[str, Any]] | None) -> list[list[int]]:
    """The shapes of the outputs' rows, with -1 where they follow the size of the input."""
    shapes = [_shape(output) for _, output in named]
    if other is None or [name for name, _ in other] != [name for name, _ in named]:
        return shapes
    for shape, (_, output) in zip(shapes, other, strict=True):
        second = _shape(output)
        if len(second) == len(shape):
            shape[:] = [a if a == b else -1 for a, b in zip(shape, second, strict=True)]
    return shapes


def _shape(output: Any) -> list[int]:
    """Of a row; of a ragged output, of one entry of it."""
    return list((output[0] if isinstance(output, list) else output).shape[1:])


def _finite(output: Any) -> bool:
    from sponge_server.models.loaded import datatype_of

    parts = output if isinstance(output, list) else [output]
    return datatype_of(output) == "BYTES" or all(bool(part.isfinite().all()) for part in parts)
