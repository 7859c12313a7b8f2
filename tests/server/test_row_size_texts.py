"""The size of texts: their bytes, of each row by itself."""

from __future__ import annotations

from sponge_server.workers.examples import EXAMPLE_TEXT, example_item
from sponge_server.workers.interface import Item, ModelInfo, Tensor, TensorSpec
from sponge_server.workers.row_size import RowSize
from sponge_server.workers.strings import pack_strings, unpacked

SIZE = RowSize("text", most=400, least=32, pad=0, cut=True)
INPUTS = (TensorSpec("query", "BYTES", ()), TensorSpec("text", "BYTES", ()))
INFO = ModelInfo("m", INPUTS, (), 8, None, False, None, "test", size=SIZE)


def row(text: bytes) -> Item:
    return Item(
        tuple(
            Tensor(spec.name, "BYTES", (1,), pack_strings([part]))
            for spec, part in zip(INPUTS, (b"q", text), strict=True)
        )
    )


def test_each_text_has_a_size_of_its_own() -> None:
    SIZE.check(INPUTS)
    assert INFO.sizes_of([row(b"a" * 37), row(b""), row(b"a" * 500)]) == [37.0, 1.0, 400.0]
    assert not SIZE.padded(INPUTS[1])


def test_a_longer_text_costs_more_where_none_is_cut() -> None:
    assert RowSize("text", most=400, least=32, pad=0).of(row(b"a" * 500).tensors) == 500.0


def test_examples_have_the_size_that_is_asked_for() -> None:
    item = example_item(INFO, 2, 300)
    assert [len(text) for text in unpacked(item.tensors[1].data)] == [300, 300]
    assert unpacked(item.tensors[0].data) == [EXAMPLE_TEXT] * 2
    assert INFO.sizes_of([item]) == [300.0]
    assert [len(text) for text in unpacked(example_item(INFO, 1).tensors[1].data)] == [SIZE.reference]
