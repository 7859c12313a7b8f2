"""Made-up rows: integers that the model takes, whatever they are for, so that a comparison says something of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from sponge_server.models import example_rows, precision
from sponge_server.models.example_rows import example_batch, integer_ranges
from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import ModelError, TensorSpec
from sponge_server.workers.probe import probe
from sponge_server.workers.row_size import RowSize

pytestmark = pytest.mark.torch

IDS = TensorSpec("ids", "INT64", (-1,))
PLACES = TensorSpec("places", "INT64", (-1,))
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


def packed(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """A sum over the part of each row that its length says; torch refuses lengths of 0, and beyond the row."""
    parts = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return torch.nn.utils.rnn.pad_packed_sequence(parts, batch_first=True, total_length=x.shape[1])[0].sum(1)


def repeated(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """As many entries as the input says."""
    return x.repeat(1, int(times.max()) + 1)


@pytest.mark.parametrize(
    ("forward", "inputs", "ranges"),
    [
        (looked_up(30_000), [IDS], [(0, 255)]),
        (looked_up(256), [IDS], [(0, 255)]),
        (looked_up(100), [IDS], [(0, 15)]),
        (looked_up(3), [IDS], [(0, 1)]),
        (looked_up(1), [IDS], [(0, 0)]),
        (looked_up(30_000, 2), [IDS, KINDS], [(0, 255), (0, 1)]),
        (looked_up(30_000, 1), [IDS, KINDS], [(0, 255), (0, 0)]),
        (masked, [IDS, MASK], [(0, 255), (0, 1)]),
        (masked_infinitely, [IDS, MASK], [(0, 255), (1, 1)]),
        (packed, [TensorSpec("x", "FP32", (-1, 2)), TensorSpec("lengths", "INT64", ())], [(0, 0), (1, 15)]),
        (repeated, [IDS, TensorSpec("times", "INT64", (1,))], [(0, 255), (1, 1)]),
        (lambda x: x.float(), [TensorSpec("x", "UINT8", (3, 4, 4))], [(0, 255)]),
        (lambda x: x.float(), [TensorSpec("x", "INT8", (64,))], [(0, 127)]),
        (lambda x: x.float(), [TensorSpec("x", "BOOL", (64,))], [(0, 1)]),
        (lambda x: 1 / x, [TensorSpec("x", "INT8", (64,))], [(1, 127)]),
        (lambda x: x / 0, [IDS], []),
        (lambda x: x.nothing, [IDS], []),
    ],
)
def test_the_range_of_integers_is_as_wide_as_the_model_takes(
    forward: Callable[..., torch.Tensor], inputs: list[TensorSpec], ranges: list[tuple[int, int]]
) -> None:
    found = integer_ranges(LoadedModel(forward, tuple(inputs), "test"))
    assert found == tuple(ranges)


@pytest.mark.parametrize(("one_takes_s", "integers"), [(0.03, (0, 1)), (0.0005, (0, 15)), (6.0, (1, 1))])
def test_an_integer_that_is_a_count_of_work_stays_small(
    one_takes_s: float, integers: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0

    def works(times: torch.Tensor) -> torch.Tensor:
        nonlocal now_s
        now_s += one_takes_s * int(times.max())
        return times.float()

    monkeypatch.setattr(example_rows, "time", SimpleNamespace(perf_counter=lambda: now_s))
    model = LoadedModel(works, (TensorSpec("times", "INT64", (1,)),), "test")
    # A model that takes 6 s for a row is not tried with other integers.
    assert integer_ranges(model) == (integers,)


@pytest.mark.parametrize(
    ("forward", "inputs", "largest"),
    [
        (looked_up(30_000), [IDS], [255]),
        (looked_up(30_000, 2), [IDS, KINDS], [255, 1]),
        (looked_up(30_000, 1), [IDS, KINDS], [255, 0]),
        (masked, [IDS, MASK], [255, 1]),
    ],
)
def test_integers_fill_their_range(
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


def dies_of_more_than(most: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """As native code does that reads beyond its table."""

    def forward(ids: torch.Tensor) -> torch.Tensor:
        if int(ids.max()) > most:
            os._exit(7)
        return ids.float()

    return forward


def test_where_the_search_ends_the_process_examples_are_zeros_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = probe(LoadedModel(dies_of_more_than(0), (IDS,), "test"), 4, 20.0)
    assert found.integers == ()
    (record,) = caplog.records
    assert record.getMessage() == "model.examples_of_zeros"
    with pytest.raises(ModelError, match="exit code 7"):
        probe(LoadedModel(dies_of_more_than(-1), (IDS,), "test"), 4, 20.0)


def test_a_model_that_refuses_zeros_is_probed_with_what_it_takes() -> None:
    inputs = (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("lengths", "INT64", ()))
    assert probe(LoadedModel(packed, inputs, "test"), 4, 20.0).integers == ((0, 0), (1, 15))


def test_integers_are_tried_at_the_smallest_and_the_largest_size() -> None:
    """A table of positions: the model takes indices below the number of tokens."""

    def forward(places: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(places, torch.rand(places.shape[1], 4)).mean(1)

    def integers(least: int) -> tuple[tuple[int, int], ...]:
        return integer_ranges(LoadedModel(forward, (PLACES,), "test", size=RowSize("places", 512, least)))

    assert integers(16) == ((0, 15),)
    assert integers(8) == ((1, 1),)


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
