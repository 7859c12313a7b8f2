"""What a loaded model answers: names, types and shapes of its outputs, from tiny batches that another process runs."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sponge_server.workers.forked_call import forked_call
from sponge_server.workers.interface import IntegerRange, ItemError, ModelError, TensorSpec
from sponge_server.workers.ipc import Message
from sponge_system.logs import event

if TYPE_CHECKING:
    from sponge_server.models.loaded import LoadedModel

__all__ = ["Probed", "probe"]

log = logging.getLogger(__name__)

_LARGER = (32, 64, 128, 256)
"""What examples have in a dimension of any size if the model does not run with less: networks for images halve theirs
up to eight times."""

_MOST_ELEMENTS = 1 << 24


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found.

    Attributes:
        any_size: what examples need in a dimension that accepts any size.
        integers: the smallest and largest integer of each input in examples; empty: they are 0.
        warning: about NaN or Inf in an answer.
    """

    outputs: tuple[TensorSpec, ...]
    any_size: int
    integers: tuple[IntegerRange, ...]
    warning: str | None


def probe(model: LoadedModel, max_batch: int, example_s: float) -> Probed:
    """Runs batches of one row and of two. Raises ModelError with the model's own error."""
    answer = _answer(model, max_batch if model.batched else 1, example_s)
    outputs = tuple(TensorSpec(o["name"], o["datatype"], tuple(o["shape"]), o["ragged"]) for o in answer["outputs"])
    if len({spec.name for spec in outputs}) < len(outputs):
        names = ", ".join(spec.name for spec in outputs)
        raise ModelError(f"two of its outputs have the same name ({names}): rename one")
    _check_expected(model, outputs)
    name = answer["not_finite"]
    integers = tuple((least, largest) for least, largest in answer["integers"])
    if name is None:
        return Probed(outputs, answer["any_size"], integers, None)
    return Probed(
        outputs,
        answer["any_size"],
        integers,
        f"its output '{name}' has NaN or Inf for a made-up input ({_made_up(integers)}). Requests with "
        "such answers get an error; if the model means it, set finite to false in its sidecar or LoadedModel.",
    )


def _answer(model: LoadedModel, max_batch: int, example_s: float) -> Message:
    """What `_run` finds; with zeros where the search for other integers ends the process, hangs or misleads."""
    from sponge_server.models.example_rows import needs_search

    def forked(search: bool) -> Message:
        return forked_call(lambda: _run(model, max_batch, search), example_s, "an example input", "--example-s")

    if not needs_search(model):
        return forked(False)
    try:
        return forked(True)
    except ModelError as error:
        answer = forked(False)
        event(log, "model.examples_of_zeros", logging.WARNING, why=str(error))
        return answer


def _made_up(integers: tuple[IntegerRange, ...]) -> str:
    """The numbers of examples in words."""
    if not integers:
        return "floats from 0 to 1, all others 0"
    return "floats from 0 to 1, integers " + " and ".join(f"{least} to {largest}" for least, largest in integers)


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


def _run(model: LoadedModel, max_batch: int, search: bool) -> dict[str, Any]:
    """`search`: look for integers other than 0 that the model takes."""
    from sponge_server.models.loaded import datatype_of

    if model.setup is not None:
        model.setup()
    model, named = _first(model, search)
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
    return {
        "outputs": described,
        "any_size": model.any_size,
        "integers": model.integers,
        "not_finite": not_finite,
    }


def _first(model: LoadedModel, search: bool) -> tuple[LoadedModel, list[tuple[str, Any]]]:
    """The model with sizes and integers of examples that it runs with, and its answer to one row."""
    from sponge_server.models.example_rows import integer_ranges

    def answered(model: LoadedModel) -> tuple[LoadedModel, list[tuple[str, Any]]]:
        model = replace(model, integers=integer_ranges(model)) if search else model
        return model, _outputs(model, 1)

    try:
        return answered(model)
    except ModelError as error:
        refused = error
    tried = []
    for size in _LARGER if _is_free(model) and model.size is None else ():
        larger = replace(model, any_size=size)
        if all(math.prod(size if d < 0 else d for d in spec.shape) <= _MOST_ELEMENTS for spec in model.inputs):
            try:
                return answered(larger)
            except ModelError:
                tried.append(size)
    more = f" (with {model.any_size} in each dimension of any size; nor with {', '.join(map(str, tried))})"
    raise ModelError(f"{refused}{more if tried else ''}")


def _outputs(model: LoadedModel, rows: int) -> list[tuple[str, Any]]:
    from sponge_server.models.example_rows import example_inputs
    from sponge_server.models.loaded import datatype_of

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
