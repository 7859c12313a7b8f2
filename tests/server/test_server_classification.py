"""Classification of outputs of every datatype: the order of the values, whatever arithmetic would make of them."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from sponge_core.datatypes import NUMPY_TYPES
from sponge_server.protocol import grpc_codec, oip_json
from sponge_server.protocol.oip import InferRequest, OutputRequest, Strings, select_outputs, values_of
from sponge_server.workers.interface import Tensor


def classes(tensor: Tensor, top: int) -> list[list[tuple[str, int]]]:
    """(value as text, index) of the classes of each row."""
    (output,) = select_outputs(InferRequest(outputs=(OutputRequest("y", False, top),)), [tensor], None)
    strings = output.strings
    assert isinstance(strings, Strings)
    parts = [bytes(value).decode().split(":") for value in strings.values]
    rows, each = strings.shape
    return [[(text, int(index)) for text, index in parts[r * each : (r + 1) * each]] for r in range(rows)]


scores = st.sampled_from(sorted(NUMPY_TYPES)).flatmap(
    lambda datatype: npst.arrays(
        NUMPY_TYPES[datatype],
        st.tuples(st.integers(1, 3), st.integers(0, 9)),
        elements=npst.from_dtype(NUMPY_TYPES[datatype]),
    ).map(lambda array: (datatype, array))
)


def rank(value: Any, index: int) -> tuple[bool, Any, int]:
    """The order of a classification: numbers from the largest, then NaN; equal ones by index."""
    value = value.item()
    missing = isinstance(value, float) and math.isnan(value)
    return missing, 0 if missing else -value, index


@given(scores, st.integers(1, 12))
def test_classes_come_in_the_order_of_their_values(given_scores: tuple[str, Any], top: int) -> None:
    datatype, array = given_scores
    tensor = Tensor("y", datatype, array.shape, array.tobytes())
    for row, found in zip(array, classes(tensor, top), strict=True):
        wanted = sorted(range(len(row)), key=lambda i: rank(row[i], i))[:top]
        assert [index for _, index in found] == wanted


@pytest.mark.parametrize(
    ("datatype", "values", "best"),
    [
        ("UINT8", [0, 255, 1], ("255", 1)),
        ("INT8", [-128, 127, 0], ("127", 1)),
        ("INT64", [2**53, 2**53 + 1, -(2**63)], (str(2**53 + 1), 1)),
        ("BOOL", [False, True, True], ("1", 1)),
        ("FP32", [float("nan"), -1.5, float("-inf")], ("-1.500000", 1)),
        ("FP16", [0.5, 1.0, 0.25], ("1.000000", 1)),
    ],
)
def test_values_are_written_as_their_datatype_has_them(datatype: str, values: list[Any], best: tuple[str, int]) -> None:
    data = np.array(values, NUMPY_TYPES[datatype]).tobytes()
    assert classes(Tensor("y", datatype, (1, len(values)), data), 1) == [[best]]


def test_bf16_is_widened_first() -> None:
    data = b"".join(struct.pack("<f", value)[2:] for value in (-2.0, 8.0, 1.0))
    tensor = Tensor("y", "BF16", (1, 3), data)
    assert values_of(tensor).tolist() == [-2.0, 8.0, 1.0]
    assert classes(tensor, 2) == [[("8.000000", 1), ("1.000000", 2)]]


@pytest.mark.parametrize("shape", [(2, 0), (2,), (2, 2, 2), (2, 0, 3)])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32", "BOOL"])
def test_any_shape_is_classified_over_both_protocols(shape: tuple[int, ...], datatype: str) -> None:
    array = np.ones(shape, NUMPY_TYPES[datatype])
    tensor = Tensor("y", datatype, shape, array.tobytes())
    request = InferRequest(outputs=(OutputRequest("y", False, 5),))
    each = min(5, math.prod(shape[1:]))
    body, _ = oip_json.encode("m", "1", request, [tensor])
    assert body.count(b"1:") + body.count(b"1.000000:") >= 2 * min(each, 1)
    (entry,) = grpc_codec.encode("m", "1", request, [tensor]).outputs
    assert list(entry.shape) == [2, each]
    assert len(entry.contents.bytes_contents) == 2 * each
