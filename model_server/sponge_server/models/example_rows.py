"""Made-up rows of a model: to trace it, and to compare its answers with those of another form of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sponge_server.models.loaded import TORCH_DTYPE, LoadedModel

__all__ = ["example_batch"]

_SEED = 0

_LARGEST = (255, 15, 1)
"""Integers go up to the first of these that the model computes with: they may be indices of a short table, or a mask.
Answers to zeros alone would say little of a model: it might use one row of its tables. 255 is the largest byte."""


def example_batch(model: LoadedModel, rows: int) -> list[torch.Tensor]:
    """Rows as the model makes them, else noise of the right shapes: fractions and, for integers, what the model takes.

    It is equal in every call and different in every row. To find what it takes, the model is run.
    """
    if model.examples is not None:
        return model.examples(rows)
    return _inputs(model, rows, _largest(model))


def _largest(model: LoadedModel) -> list[int]:
    """The largest integer for each input, of those that the model can be tried with."""
    limits = [_limit(TORCH_DTYPE[spec.datatype]) for spec in model.inputs]
    if not any(limits):
        return limits
    # Ones first: with zeros for a mask, a model may answer NaN whatever its other inputs are.
    found = next((same for most in (1, 0) if _computes(model, same := [min(most, limit) for limit in limits])), None)
    if found is None:
        return [0] * len(limits)
    for place, limit in enumerate(limits):
        larger = (most for largest in _LARGEST if (most := min(limit, largest)) > found[place])
        tries = ([*found[:place], most, *found[place + 1 :]] for most in larger)
        found = next((each for each in tries if _computes(model, each)), found)
    return found


def _limit(dtype: torch.dtype) -> int:
    """The largest integer of a type to try; 0: it has none."""
    if dtype.is_floating_point:
        return 0
    return 1 if dtype == torch.bool else min(_LARGEST[0], torch.iinfo(dtype).max)


def _computes(model: LoadedModel, largest: Sequence[int]) -> bool:
    """Whether a row with these integers everywhere is answered, and with finite numbers."""
    try:
        outputs = model.run(_inputs(model, 1, largest, everywhere=True))
    except Exception:  # noqa: BLE001 - a model raises anything for an index beyond its table
        return False
    tensors = (output for _, output in outputs if isinstance(output, torch.Tensor))
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _inputs(model: LoadedModel, rows: int, largest: Sequence[int], *, everywhere: bool = False) -> list[torch.Tensor]:
    """Fractions, and integers from 0 to the largest of each input, or that one `everywhere`."""
    generator = torch.Generator().manual_seed(_SEED)
    made = []
    for spec, most in zip(model.inputs, largest, strict=True):
        shape = (rows, *(model.any_size if size < 0 else size for size in spec.shape))
        dtype = TORCH_DTYPE[spec.datatype]
        if dtype.is_floating_point:
            noise = torch.rand(shape, generator=generator)
        elif everywhere:
            noise = torch.full(shape, most)
        else:
            noise = torch.randint(most + 1, shape, generator=generator)
        layout = torch.channels_last if model.channels_last and noise.ndim == 4 else torch.contiguous_format
        made.append(noise.to(dtype).contiguous(memory_format=layout))
    return made
