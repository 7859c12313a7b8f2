"""What a class declares of its inputs and outputs, and what becomes of an answer that does not keep to it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sponge_server.model import Output
from sponge_server.models.declared import answer
from sponge_server.models.loaded import LoadedModel
from sponge_server.models.source import load
from sponge_server.workers.interface import ItemError, ModelError, TensorSpec
from sponge_server.workers.probe import probe

pytestmark = pytest.mark.torch

BOXES = Output("boxes", "FP32", (-1, 2), ragged=True)
WORDS = Output("words", "BYTES", (-1,), ragged=True)


def model(tmp_path: Path, body: str) -> LoadedModel:
    code = "from sponge_server.model import *\nimport numpy as np\nclass M(Model):\n" + textwrap.indent(
        textwrap.dedent(body), "    "
    )
    path = tmp_path / f"own_{len(list(tmp_path.iterdir()))}_{tmp_path.name}.py"
    path.write_text(code)
    return load(f"python://{path}:M")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "inputs = (Input('x', 'FP32', (3,), ragged=True),)",
            "x is ragged, but all its rows have shape .3,.: write -1",
        ),
        ("inputs = (Input('x', 'FP32', (-1,), ragged=True),)\nbatch = False", "batch = False there are no rows"),
        (
            "inputs = (Input('x', 'FP32', ()),)\noutputs = (Output('y', 'FP32', (4,), ragged=True),)",
            "y is ragged with rows of shape .4,.: the first size of a ragged row is its number of entries, -1",
        ),
        (
            "inputs = (Input('x', 'FP32', ()),)\noutputs = (Output('y', 'float', (4,)),)",
            "output y has datatype 'float'",
        ),
        ("inputs = (Input('x', 'FP32', ()),)\noutputs = 'y'", r'outputs is of type str: write outputs = \("y",\)'),
        ("inputs = (Input('x', 'FP32', ()),)\noutputs = (3,)", "has a int among its outputs"),
        ("inputs = (Input('x', 'FP32', ()),)\noutputs = ('y', 'y')", "two outputs of the same name"),
        (
            "inputs = (Input('x', 'FP32', ()),)\noutputs = (Output('y', 'FP32', (-1,), ragged=True), 'y_lengths')",
            "two outputs of the same name: .*NAME_lengths",
        ),
        ("inputs = (Input('x', 'FP32', (-1, -1, 3)),)\nimage = 'RGB'", r'Input\("x", "UINT8", \(-1, -1, 3\), ragged'),
        ("inputs = (Input('x', 'UINT8', (-1, -1)),)\nimage = 'CMYK'", "image is 'CMYK', expected one of RGB, L"),
    ],
)
def test_declarations_that_do_not_fit_are_refused_with_the_fix(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model(tmp_path, body)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"boxes": 3}, "its boxes is of type int: a ragged output is a list with an array for each row"),
        ({"boxes": [[[1, 2, 3]], []]}, r"row 0 of its boxes has shape \[1, 3\], declared is \[-1, 2\]"),
        ({"boxes": [[1, 2], []]}, r"row 0 of its boxes has shape \[2\], declared is"),
        ({"boxes": [[], [["a", "b"]]]}, "row 1 of its boxes is of strings, declared is FP32"),
        ({"box": [[], []]}, "the model returned box; its outputs are declared as boxes"),
        (([], []), "returned 2 outputs, its description names 1: boxes"),
    ],
)
def test_answers_that_break_the_declaration_are_told(value: Any, message: str) -> None:
    with pytest.raises(ItemError, match=message):
        answer(value, (BOXES,))


def test_the_order_of_a_mapping_does_not_matter() -> None:
    given = answer({"b": [1.0], "a": [[2, 3]]}, ("a", Output("b", "FP64", ())))
    assert list(given) == ["a", "b"]
    assert (given["a"].tolist(), given["b"].dtype) == ([[2, 3]], torch.float64)


@pytest.mark.parametrize(
    ("value", "datatype", "kept"),
    [
        ([1, 2], "FP32", True),
        ([1, 255], "UINT8", True),
        ([1, 256], "UINT8", False),
        ([-1], "UINT64", False),
        ([1.5], "INT64", False),
        ([True], "INT8", True),
        ([2], "BOOL", False),
        ([1.5], "BF16", True),
        (["a"], "FP32", False),
        ([1], "BYTES", False),
        ([], "BYTES", True),
        ([], "UINT8", True),
    ],
)
def test_numbers_become_the_declared_type_if_they_stay_what_they_are(value: Any, datatype: str, kept: bool) -> None:
    declared = Output("y", datatype, ())
    if kept:
        y = answer({"y": value}, (declared,))["y"]
        assert len(y) == len(value)
        assert y.tolist() == value or datatype == "BOOL"
    else:
        with pytest.raises(ItemError, match=f"declared is {datatype}: convert it"):
            answer({"y": value}, (declared,))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_every_row_keeps_its_entries(counts: list[int]) -> None:
    spec = TensorSpec("n", "INT64", ())

    def forward(numbers: torch.Tensor) -> Any:
        found = {
            "boxes": [[[n, i] for i in range(n)] for n in numbers.tolist()],
            "words": [[str(i) for i in range(n)] for n in numbers.tolist()],
        }
        return answer(found, (BOXES, WORDS))

    named = dict(LoadedModel(forward, (spec,), "test").run([torch.tensor(counts)]))
    assert list(named) == ["boxes", "boxes_lengths", "words", "words_lengths"]
    assert [list(part.shape) for part in named["boxes"]] == [[n, 2] for n in counts]
    assert [part.tolist() for part in named["words"]] == [[str(i) for i in range(n)] for n in counts]
    assert named["words_lengths"].tolist() == counts


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {'y': [np.zeros(1)]}", "a list of 1 for 2 rows: give one array for each row"),
        ("return {'y': [np.zeros(1)] * 3}", "a list of 3 for 2 rows"),
        ("return {'y': np.zeros((3, 1))}", "a list of 3 for 2 rows"),
    ],
)
def test_a_ragged_output_has_a_part_for_each_row(tmp_path: Path, body: str, message: str) -> None:
    made = model(
        tmp_path,
        f"""
        inputs = (Input("x", "FP32", ()),)
        outputs = (Output("y", "FP64", (-1,), ragged=True),)
        def predict(self, batch): {body}
        """,
    )
    with pytest.raises(ItemError, match=message):
        made.run([torch.zeros(2)])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {'y': np.zeros((7, 4))}", r'\[7, 4\] for 1 rows: .*Output\("y", ..., ragged=True\).*batch=false'),
        ("return {'y': [[1.0], [1.0, 2.0]]}", r'declare outputs = \(Output\("y", "FP32", \(-1,\), ragged=True\),\)'),
    ],
)
def test_an_undeclared_output_that_is_not_by_row_names_both_ways_out(tmp_path: Path, body: str, message: str) -> None:
    made = model(tmp_path, f'inputs = (Input("x", "FP32", ()),)\ndef predict(self, batch): {body}')
    with pytest.raises(ModelError, match=message):
        probe(made, 2, 60.0)


def network(least: int, *, free: bool = True) -> LoadedModel:
    """Halves images of at least so many pixels, and gives their mean, too."""

    def forward(x: torch.Tensor) -> Any:
        if x.shape[-1] < least:
            raise ValueError(f"{x.shape[-1]} is too small")
        return {"half": x[:, ::2, ::2], "mean": x.mean((1, 2)), "found": [row[:1, :3] for row in x]}

    return LoadedModel(forward, (TensorSpec("x", "FP32", (-1, -1) if free else (16, 16)),), "test")


def test_sizes_that_follow_the_input_are_free_in_the_metadata() -> None:
    found = probe(network(1), 2, 60.0)
    assert [(spec.name, spec.shape) for spec in found.outputs] == [
        ("half", (-1, -1)),
        ("mean", ()),
        ("found", (3,)),
        ("found_lengths", ()),
    ]
    assert [spec.shape for spec in probe(network(1, free=False), 2, 60.0).outputs] == [(8, 8), (), (3,), ()]


@pytest.mark.parametrize(("least", "size"), [(1, 16), (17, 32), (200, 256)])
def test_examples_are_as_large_as_the_model_needs(least: int, size: int) -> None:
    assert probe(network(least), 2, 60.0).any_size == size


def test_a_model_that_takes_no_size_says_which_were_tried() -> None:
    with pytest.raises(
        ModelError, match=r"16 is too small .with 16 in each dimension of any size; nor with 32, 64, 128, 256"
    ):
        probe(network(1000), 2, 60.0)


def test_strings_of_no_entries_are_strings() -> None:
    (part,) = answer({"words": [np.empty(0)]}, (WORDS,))["words"]
    assert (part.dtype, part.shape) == (object, (0,))
