"""Compressed bodies: any split of any body, what is cut off or no compression at all, bombs, and Accept-Encoding."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_server.protocol.content_coding import (
    MOST_MEMBERS,
    STEP_OUT,
    Inflater,
    accepts_gzip,
    gzipped,
    inflated,
    is_coded,
    is_compressed,
)
from sponge_server.protocol.problems import ProblemError
from sponge_server.protos import inference_pb2 as pb

CODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "two members": lambda body: gzip.compress(body[:7]) + gzip.compress(body[7:]),
    "an empty member last": lambda body: gzip.compress(body) + gzip.compress(b""),
}


def inflated_in_steps(pieces: list[bytes], most: int = 1 << 40) -> tuple[bytes, int, int]:
    """Plain body, compressed bytes that were reported, and the largest piece; stops beyond `most` bytes."""

    async def run() -> tuple[bytes, int, int]:
        left = list(pieces)

        async def pull() -> tuple[bytes, bool]:
            return left.pop(0), bool(left)

        inflater, body, arrived, largest, more = Inflater(pull), bytearray(), 0, 0, True
        while more and len(body) <= most:
            plain, pulled, more = await inflater.receive()
            body += plain
            arrived += pulled
            largest = max(largest, len(plain))
        return bytes(body), arrived, largest

    return asyncio.run(run())


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@settings(max_examples=200)
@given(
    body=st.binary(max_size=200) | st.integers(0, 3 * STEP_OUT).map(bytes),
    coder=st.sampled_from(sorted(CODERS)),
    places=st.lists(st.integers(0, 1 << 20), max_size=5),
)
def test_the_plain_body_comes_back_wherever_the_pieces_end(body: bytes, coder: str, places: list[int]) -> None:
    stream = CODERS[coder](body)
    plain, arrived, largest = inflated_in_steps(cut(stream, places))
    assert (plain, arrived) == (body, len(stream))
    assert largest <= STEP_OUT


@settings(max_examples=100)
@given(body=st.binary(max_size=300), coder=st.sampled_from(sorted(CODERS)), data=st.data())
def test_a_body_that_is_cut_off_is_refused(body: bytes, coder: str, data: st.DataObject) -> None:
    stream = CODERS[coder](body)
    end = data.draw(st.integers(0, len(stream) - 1))
    whole = {len(gzip.compress(body[:7])), len(gzip.compress(body))} if "member" in coder else set()
    if end in whole:
        return  # what is left is complete in itself
    with pytest.raises(ProblemError, match="cut off") as refused:
        inflated_in_steps([stream[:end]])
    assert refused.value.status == 400


RUBBISH = {
    "JSON": b"{}",
    "a start": b"\x1f\x8b\x08",
    "a wrong sum": gzip.compress(b"x" * 99)[:-8] + bytes(8),
    "zeros": b"\0" * 40,
}


@pytest.mark.parametrize("stream", RUBBISH.values(), ids=RUBBISH)
def test_rubbish_is_refused(stream: bytes) -> None:
    with pytest.raises(ProblemError) as refused:
        inflated_in_steps([stream])
    assert (refused.value.status, refused.value.slug) == (400, "encoded-body")


def test_a_bomb_expands_no_further_than_its_reader_goes() -> None:
    bomb = gzip.compress(bytes(200 << 20), 9)
    plain, _, largest = inflated_in_steps([bomb], most=1 << 20)
    assert len(plain) <= (1 << 20) + STEP_OUT
    assert largest <= STEP_OUT


def test_members_are_counted() -> None:
    with pytest.raises(ProblemError, match="more than 1024 members"):
        inflated_in_steps([gzip.compress(b"") * (MOST_MEMBERS + 1)])
    assert inflated_in_steps([gzip.compress(b"x") * MOST_MEMBERS])[0] == b"x" * MOST_MEMBERS


@given(st.binary(max_size=300))
def test_a_short_message_of_grpc_comes_back(body: bytes) -> None:
    assert inflated(gzip.compress(body), 300) == inflated(zlib.compress(body), 300) == body


@pytest.mark.parametrize(
    ("message", "status"),
    [(gzip.compress(bytes(301)), 413), (gzip.compress(b"x")[:-1], 413), (b"\x1f\x8b no gzip", 400)],
    ids=["long", "cut off", "rubbish"],
)
def test_a_short_message_that_is_long_or_rubbish_is_refused(message: bytes, status: int) -> None:
    with pytest.raises(ProblemError) as refused:
        inflated(message, 300)
    assert refused.value.status == status


@given(
    st.builds(
        pb.ModelInferRequest,
        model_name=st.text(st.characters(codec="ascii"), max_size=40),
        id=st.text(st.characters(codec="ascii"), max_size=40),
        raw_input_contents=st.lists(st.binary(max_size=40), max_size=3),
    )
)
def test_no_message_of_the_protocol_looks_compressed(message: pb.ModelInferRequest) -> None:
    plain = message.SerializeToString()
    assert not is_compressed(plain)
    for level in range(10):
        assert is_compressed(gzip.compress(plain, level))
        assert is_compressed(zlib.compress(plain, level))


def test_other_tasks_run_while_a_body_expands() -> None:
    turns = 0

    async def run() -> None:
        nonlocal turns

        async def pull() -> tuple[bytes, bool]:
            return bomb, False

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        bomb, other = gzip.compress(bytes(64 * STEP_OUT)), asyncio.create_task(count())
        inflater, more = Inflater(pull), True
        while more:
            _, _, more = await inflater.receive()
        other.cancel()

    asyncio.run(run())
    assert turns >= 60


@pytest.mark.parametrize(
    ("accepted", "gzip_wanted"),
    [
        (None, False),
        (b"", False),
        (b"gzip", True),
        (b"GZip", True),
        (b"x-gzip", True),
        (b"gzip, deflate, br", True),
        (b"br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        (b"deflate, br", False),
        (b"gzip;q=0", False),
        (b"gzip; q=0.000, *;q=1", False),
        (b"*", True),
        (b"*;q=0", False),
        (b"identity", False),
        (b"identity, gzip;q=0.5", False),
        (b"identity;q=0.5, gzip", True),
        (b"identity;q=0, *;q=0.2", True),
        (b"gzip;q=soon", False),
        (b"gzip;q=nan", False),
        (b"gzip;level=9;q=0.3", True),
        (b",;,=;q", False),
        (b"gzip," * 4000, False),
    ],
)
def test_accept_encoding(accepted: bytes | None, gzip_wanted: bool) -> None:
    assert accepts_gzip({} if accepted is None else {b"accept-encoding": accepted}) == gzip_wanted


@pytest.mark.parametrize(
    ("coding", "coded"), [(None, False), (b"identity", False), (b"", False), (b"gzip", True), (b" X-GZIP ", True)]
)
def test_content_encoding(coding: bytes | None, coded: bool) -> None:
    assert is_coded({} if coding is None else {b"content-encoding": coding}) == coded


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"gzip, identity"])
def test_another_coding_is_refused_with_those_that_are_known(coding: bytes) -> None:
    with pytest.raises(ProblemError) as refused:
        is_coded({b"content-encoding": coding})
    assert refused.value.status == 415
    assert dict(refused.value.headers) == {b"accept-encoding": b"gzip, deflate"}


def test_only_what_becomes_smaller_is_compressed() -> None:
    body = b"0.25," * 1000
    small = gzipped(body)
    assert small is not None
    assert gzip.decompress(small) == body
    assert gzipped(b"0.25,") is None
    assert gzipped(random.Random(1).randbytes(5000)) is None
