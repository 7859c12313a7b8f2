"""Made-up rows: integers that the model takes, whatever they are for, so that a comparison says something of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sponge_server.models import precision
from sponge_server.models.example_rows import example_batch
from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import ModelError, TensorSpec

pytestmark = pytest.mark.torch

IDS = TensorSpec("ids", "INT64", (-1,))
MASK = TensorSpec("mask", "INT64", (-1,))
KINDS = TensorSpec("kinds", "INT64", (-1,))


def looked_up(*lengths: int) -> Callable[..., torch.Tensor]:
    """A model that adds up rows of tables of these lengths, one for each input."""
    tables = [torch.rand(length, 8) for length in lengths]

    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        return sum(torch.nn.functional.embedding(each, table) for each, table in zip(inputs, tables, strict=True)).mean(
            1
        )

    return forward


def masked(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention as exported models have it: what the mask leaves out gets the least number as its score."""
    scores = ids.double() + (1 - mask.double()) * torch.finfo(torch.float64).min
    return torch.softmax(scores, 1) @ torch.ones(ids.shape[1], 2, dtype=torch.float64)


def masked_infinitely(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.softmax(ids.float().masked_fill(mask != 1, -torch.inf), 1)


@pytest.mark.parametrize(
    ("forward", "inputs", "largest"),
    [
        (looked_up(30_000), [IDS], [255]),
        (looked_up(256), [IDS], [255]),
        (looked_up(100), [IDS], [15]),
        (looked_up(3), [IDS], [1]),
        (looked_up(1), [IDS], [0]),
        (looked_up(30_000, 2), [IDS, KINDS], [255, 1]),
        (looked_up(30_000, 1), [IDS, KINDS], [255, 0]),
        (masked, [IDS, MASK], [255, 1]),
        (masked_infinitely, [IDS, MASK], [255, 1]),
        (lambda x: x.float(), [TensorSpec("x", "UINT8", (3, 4, 4))], [255]),
        (lambda x: x.float(), [TensorSpec("x", "INT8", (64,))], [127]),
        (lambda x: x.float(), [TensorSpec("x", "BOOL", (64,))], [1]),
    ],
)
def test_integers_are_as_large_as_the_model_takes(
    forward: Callable[..., torch.Tensor], inputs: list[TensorSpec], largest: list[int]
) -> None:
    model = LoadedModel(forward, tuple(inputs), "test")
    batch, again = (example_batch(model, 32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True)), "equal in every call"
    for tensor, most in zip(batch, largest, strict=True):
        assert 0.9 * most <= int(tensor.to(torch.int64).max()) <= most
        assert int(tensor.to(torch.int64).min()) == 0
        assert most == 0 or not torch.equal(tensor[0], tensor[1]), "different in every row"
    model.run(batch)


def test_fractions_stay_fractions_and_the_model_is_not_run() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError(f"run with {x}")

    (batch,) = example_batch(LoadedModel(forward, (TensorSpec("x", "FP32", (5,)),), "test"), 4)
    assert batch.shape == (4, 5)
    assert 0 <= float(batch.min()) < float(batch.max()) < 1


@pytest.mark.parametrize("forward", [lambda x: x / 0, lambda x: x.nothing])
def test_a_model_that_takes_nothing_gets_zeros(forward: Callable[..., torch.Tensor]) -> None:
    (batch,) = example_batch(LoadedModel(forward, (IDS,), "test"), 2)
    assert torch.equal(batch, torch.zeros(2, 16, dtype=torch.int64))


def test_a_comparison_sees_what_rounding_does_to_every_row_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of index 0 is exact in bf16, as one for padding is."""
    monkeypatch.setattr(precision, "native_bf16", lambda: True)
    table = torch.nn.Embedding(100, 8, padding_idx=0)
    with torch.no_grad():
        table.weight[1:] = 1.0 + torch.rand(99, 8) / 256
    network = torch.nn.Sequential(table, torch.nn.Flatten(), torch.nn.LayerNorm(16 * 8)).eval()
    with pytest.raises(ModelError, match=r"bf16: its outputs differ by .*%"):
        precision.in_dtype(LoadedModel(network, (TensorSpec("ids", "INT64", (16,)),), "test"), "bf16", False)
