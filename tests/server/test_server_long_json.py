"""Long JSON bodies: read as short ones are, in steps, and never more of them than the model can take."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from wide_bounds import WIDE

from sponge_core.datatypes import NUMPY_TYPES
from sponge_server.protocol.long_json import LONG_TEXT_BYTES, STEP_BYTES, read_long
from sponge_server.protocol.oip import OipError, TensorHead
from sponge_server.protocol.oip_json import decode

"""A busy machine is no failure."""

spaces = st.text(" \t\r\n", max_size=3)


def head(datatype: str, shape: tuple[int, ...]) -> TensorHead:
    return TensorHead("x", datatype, shape, int(np.prod(shape)))


def numbers(text: str) -> Any:
    """What is cut out of a document with this data."""
    document, cut = read_long(b'{"data":%b,"name":"x"}' % text.encode(), WIDE)
    assert document["name"] == "x"
    return cut[document["data"]]


arrays = st.sampled_from(sorted(NUMPY_TYPES)).flatmap(
    lambda datatype: npst.arrays(
        NUMPY_TYPES[datatype],
        npst.array_shapes(max_dims=4, max_side=4),
        elements=npst.from_dtype(NUMPY_TYPES[datatype], allow_nan=False, allow_infinity=False),
    ).map(lambda array: (datatype, array))
)


@given(arrays, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_numbers_arrive_as_in_a_short_text(
    case: tuple[str, np.ndarray[Any, Any]], indent: int | str | None, flat: bool
) -> None:
    datatype, array = case
    text = json.dumps(array.ravel().tolist() if flat else array.tolist(), indent=indent)
    tensor = numbers(text).tensor(head(datatype, array.shape))
    assert bytes(tensor.data) == array.tobytes()


@given(st.text("[]01, ", max_size=24))
def test_what_is_no_list_of_numbers_is_refused_and_nothing_else(inner: str) -> None:
    """Against the library: a text is taken if it is JSON and its rows have one length, wherever it is cut."""
    text = f"[{inner}]"
    try:
        array = np.asarray(orjson.loads(text), dtype=np.float64)
    except (orjson.JSONDecodeError, ValueError, TypeError):
        array = None
    wanted = 1 if array is None else array.size
    try:
        document, cut = read_long(b'{"data":%b,"name":"x"}' % text.encode(), WIDE)
        given = cut[document["data"]].tensor(head("FP64", (wanted,)))
    except OipError:
        assert array is None or not array.size
    else:
        assert array is not None
        assert np.frombuffer(given.data, np.float64).tolist() == array.ravel().tolist()


@pytest.mark.parametrize("count", [1, 5000, 3 * STEP_BYTES])
def test_many_steps_give_every_number_in_its_place(count: int) -> None:
    wanted = np.arange(count, dtype=np.int32)
    tensor = numbers(json.dumps(wanted.tolist())).tensor(head("INT32", (count,)))
    assert bytes(tensor.data) == wanted.tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[1,2,3]", "holds 4 elements, data has 3"),
        ("[]", "holds 4 elements, data has 0"),
        ("[1,,2,3]", "cannot be read"),
        ("[1,2,3,]", "cannot be read"),
        ("[1,2,3,NaN]", "cannot be read"),
        ("[1,2,3,null]", "does not hold INT32"),
        ("[1,2,3,0.5]", "does not hold INT32"),
        ("[1,2,3,4000000000]", "goes beyond"),
        ("[[1,2],[3],[4]]", "ragged"),
        ("[[1,2],3,4]", "ragged"),
        ("[[1,2][3,4]]", "ragged"),
        ("[[1],[2[]],[3],[4]]", "ragged"),
        ("[" * 100 + "1,2,3,4" + "]" * 100, "ragged"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(data: str, message: str) -> None:
    with pytest.raises(OipError, match=message):
        numbers(data).tensor(head("INT32", (4,)))


def long_body(**rest: Any) -> bytes:
    count = LONG_TEXT_BYTES
    entry = {"name": "x", "datatype": "UINT8", "shape": [1, count], "data": [7] * count}
    return json.dumps({"inputs": [entry], **rest}).encode()


def test_a_long_request_keeps_everything_else() -> None:
    request = decode(long_body(id='a "data":[1] b', parameters={"timeout": 9, "data": [1, 2]}), None, WIDE)
    assert (request.id, request.timeout_us) == ('a "data":[1] b', 9)
    assert bytes(request.tensors[0].data) == b"\7" * LONG_TEXT_BYTES


def test_strings_of_a_long_request_are_read() -> None:
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [2], "data": ["AAAA" * LONG_TEXT_BYTES, "AQ=="]}]}
    )
    (strings,) = decode(body.encode(), None, WIDE).strings
    assert [len(value) for value in strings.values] == [3 * LONG_TEXT_BYTES, 1]


NARROW = replace(WIDE, inputs=1, outputs=2, strings=64, dimensions=8, lists=100)
SMALL_INPUT = b'{"name":"x","datatype":"FP32","shape":[1],"data":[1]}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"inputs":[%b]}' % b",".join([SMALL_INPUT] * 5000), "too many values"),
        (b'{"inputs":[%b],"outputs":[%b]}' % (SMALL_INPUT, b",".join([b'{"name":"y"}'] * 9000)), "too many values"),
        (b'{"inputs":[{"name":"x","shape":[%b]}]}' % (b",".join([b"18446744073709551615"] * 9000)), "too many values"),
        (b'{"inputs":[%b],"parameters":{%b}}' % (SMALL_INPUT, b",".join([b'"a":1'] * 20_000)), "too many values"),
        (b"[" * 100_000, "too many values"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "too many values"),
        (b'"data"' * 20_000, "too many values"),
        (
            b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[2],"data":[%b]}]}' % (b'"",' * 40_000),
            "too many values",
        ),
        (
            b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,20000],"data":[%b]}]}' % b",".join([b"[1]"] * 20_000),
            "more than 100 lists",
        ),
    ],
)
def test_more_than_the_model_can_take_is_counted_not_read(body: bytes, message: str) -> None:
    assert len(body) > LONG_TEXT_BYTES
    with pytest.raises(OipError, match=message):
        decode(body, None, NARROW)
