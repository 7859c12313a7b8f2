"""Made-up rows of a loaded model: to run it for the first time, to trace it, and to compare its answers.

Integers may be indices of a table, a mask, lengths or counts. Which ones a model takes is found by running it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sponge_server.models.loaded import TORCH_DTYPE, LoadedModel, string_array
from sponge_server.workers.examples import any_size_of, example_tensor
from sponge_server.workers.interface import IntegerRange, TensorSpec

__all__ = ["example_batch", "example_inputs", "integer_ranges", "needs_search"]

_LARGEST = (1, 15, 255)
"""Integers go up to the last of these that the model computes with: they may be indices of a short table, or a mask.
255 is the largest byte."""

_LONGER, _NOISE_S = 3.0, 0.01
"""An integer that makes a run take so many times as long, and so many seconds longer, is a count. Examples keep to the
smaller one then."""

_SEARCH_S = 5.0
"""No further integers are tried after so long: a model so slow would take minutes to start."""


def example_batch(model: LoadedModel, rows: int) -> list[torch.Tensor]:
    """Rows as the model makes them, else noise of the right shapes: fractions and, for integers, what the model takes.

    It is equal in every call and different in every row. To find what it takes, the model is run.
    """
    if model.examples is not None:
        return model.examples(rows)
    model = replace(model, integers=integer_ranges(model))
    made = [_tensors(model, 1, seed) for seed in range(rows)]
    return [model.laid_out(torch.cat(each)) for each in zip(*made, strict=True)]


def example_inputs(model: LoadedModel, rows: int) -> list[Any]:
    """The rows that the server's examples have, as `LoadedModel.run` takes them."""
    return [
        list(whole) if spec.ragged else whole
        for spec, whole in zip(model.inputs, _tensors(model, rows, 0), strict=True)
    ]


def needs_search(model: LoadedModel) -> bool:
    """Whether the model has integers, and does not say which ones examples may have."""
    return not model.integers and any(map(_limit, model.inputs))


def integer_ranges(model: LoadedModel) -> tuple[IntegerRange, ...]:
    """The smallest and largest integer for each input: the model's own, else those that it can be run with.

    Empty: it has no integers, or could not be run with any; then they are 0.
    """
    return _Search(model).ranges() if needs_search(model) else model.integers


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a run with some integers gave: the shapes of its outputs, and its seconds."""

    shapes: list[tuple[int, ...]]
    took_s: float


class _Search:
    """Runs the model with one integer everywhere in each input, until it knows what it takes."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._until = time.perf_counter() + _SEARCH_S
        self._base: _Answer | None = None

    def ranges(self) -> tuple[IntegerRange, ...]:
        """As `integer_ranges`."""
        limits = [_limit(spec) for spec in self._model.inputs]
        # Ones first: with zeros for a mask, a model may answer NaN whatever its other inputs are.
        least = next((same for most in (1, 0) if self._base_of(same := [min(most, limit) for limit in limits])), None)
        if least is None:
            return ()
        largest = self._largest(least, limits)
        smallest = [0 if low == 0 or self._takes(_with(largest, place, 0)) else low for place, low in enumerate(least)]
        for first, last in ((smallest, largest), (largest, largest)):
            found = tuple(zip(first, last, strict=True))
            if self._like_base(found) and self._other_sizes(found):
                return found
        return tuple((each, each) for each in least)

    def _base_of(self, integers: Sequence[int]) -> bool:
        same = [(each, each) for each in integers]
        if self._run(self._model, same) is not None:
            self._base = self._run(self._model, same)  # the first run prepares things, and is slow
        return self._base is not None

    def _largest(self, least: Sequence[int], limits: Sequence[int]) -> list[int]:
        """For each input the largest integer that the model takes, beside those found for the inputs before it."""
        found = list(least)
        for place, limit in enumerate(limits):
            for most in _LARGEST:
                trial = _with(found, place, min(limit, most))
                if trial != found and not self._takes(trial):
                    break
                found = trial
        return found

    def _takes(self, integers: Sequence[int]) -> bool:
        return self._like_base([(each, each) for each in integers])

    def _like_base(self, ranges: Sequence[IntegerRange]) -> bool:
        """Whether these integers are answered in the same shapes, and about as soon."""
        base = self._base
        for _ in range(2):  # once more where the first run was slow, because it may have been disturbed
            if base is None or time.perf_counter() > self._until:
                return False
            answer = self._run(self._model, ranges)
            if answer is None or answer.shapes != base.shapes:
                return False
            if answer.took_s <= max(_LONGER * base.took_s, base.took_s + _NOISE_S):
                return True
        return False

    def _other_sizes(self, ranges: Sequence[IntegerRange]) -> bool:
        """Whether rows of all sizes can have these integers, where the model declares a size."""
        size = self._model.size
        return size is None or all(
            self._run(replace(self._model, size=None, any_size=most), ranges) is not None
            for most in (size.least, size.most)
        )

    def _run(self, model: LoadedModel, ranges: Sequence[IntegerRange]) -> _Answer | None:
        """The answer to a row; None if it is refused, or has NaN or Inf that the model does not mean."""
        began = time.perf_counter()
        try:
            outputs = model.run(example_inputs(replace(model, integers=tuple(ranges)), 1))
        except Exception:  # noqa: BLE001 - a model raises anything for an index beyond its table
            return None
        took_s = time.perf_counter() - began
        tensors = [output for _, output in outputs if isinstance(output, torch.Tensor)]
        if model.finite and not all(bool(tensor.isfinite().all()) for tensor in tensors):
            return None
        return _Answer([tuple(tensor.shape) for tensor in tensors], took_s)


def _with(integers: Sequence[int], place: int, integer: int) -> list[int]:
    """The integers with another one for one input."""
    return [*integers[:place], integer, *integers[place + 1 :]]


def _limit(spec: TensorSpec) -> int:
    """The largest integer of an input to try; 0: it has none."""
    dtype = TORCH_DTYPE.get(spec.datatype)
    if dtype is None or dtype.is_floating_point:
        return 0
    return 1 if dtype == torch.bool else min(_LARGEST[-1], torch.iinfo(dtype).max)


def _tensors(model: LoadedModel, rows: int, seed: int) -> list[Any]:
    """Tensors, or arrays of strings, by input."""
    ranges = model.integers or ((0, 0),) * len(model.inputs)
    found: list[Any] = []
    for spec, integers in zip(model.inputs, ranges, strict=True):
        made = example_tensor(spec, rows, any_size_of(model), model.size, integers, seed)
        if spec.datatype == "BYTES":
            whole: np.ndarray | torch.Tensor = string_array(made.data, made.shape)
        else:
            whole = torch.frombuffer(bytearray(made.data), dtype=TORCH_DTYPE[spec.datatype]).reshape(made.shape)
        found.append(model.laid_out(whole))
    return found
