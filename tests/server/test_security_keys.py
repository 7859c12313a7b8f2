"""The file of API keys, and whose key a request carries."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.errors import SpongeError
from sponge_server.protocol.problems import ProblemError
from sponge_server.security.api_keys import ApiKeys, BadKeysError, parse_keys

LONG = "c8f1b6e2a94d4f0e9b7a"
OTHER = "7d1e0c5b3a2f4e6d8c9b"


def keys_of(path: Path, text: str) -> ApiKeys:
    path.write_text(text)
    keys = ApiKeys(path)
    keys.load()
    return keys


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"abc\n", {"abc": "line-1"}),
        (b"abc", {"abc": "line-1"}),
        (b"# clients\n\n  phone: abc  \nxyz\n", {"abc": "phone", "xyz": "line-4"}),
        (b"phone:abc\r\nphone:\tnext\r\n", {"abc": "phone", "next": "phone"}),
        (b"\xef\xbb\xbfa@b.c: k#1=/+\n", {"k#1=/+": "a@b.c"}),
        (b"x" * 512, {"x" * 512: "line-1"}),
    ],
)
def test_a_file_lists_keys_with_and_without_names(content: bytes, expected: dict[str, str]) -> None:
    assert parse_keys(content) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no key"),
        (b"\n# none yet\n \n", "holds no key"),
        (b"phone:\n", "line 1: a key has"),
        (b"ok\ntwo words\n", "line 2: a key has"),
        (b"ok\nphone: two words\n", "line 2: a key has"),
        (b"k\xc3\xa9y\n", "line 1: a key has"),
        (b"k\x00y\n", "line 1: a key has"),
        (b"x" * 513, "line 1: a key has"),
        (b": abc\n", "line 1: a name has"),
        (b"a b: abc\n", "line 1: a name has"),
        (b"phone: abc:def\n", "line 1: a name has"),
        (b"n" * 65 + b": abc\n", "line 1: a name has"),
        (b"a: abc\n\nb: abc\n", "line 3: the same key as in line 1"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_a_file_that_lists_none_is_refused_with_the_line_and_the_form(content: bytes, reason: str) -> None:
    with pytest.raises(BadKeysError, match=reason) as error:
        parse_keys(content)
    assert b"abc" not in str(error.value).encode()


KEYS = st.text(st.sampled_from([chr(code) for code in range(33, 127) if chr(code) != ":"]), min_size=1, max_size=80)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", fullmatch=True)
SPACE = st.sampled_from(["", " ", "\t", "  "])
ENDS = st.sampled_from(["\n", "\r\n", "\n\n", "\n# a comment: with a colon\n"])


@given(st.dictionaries(KEYS.filter(lambda key: key[0] != "#"), st.none() | NAMES, min_size=1, max_size=8), st.data())
def test_what_is_written_is_read(wanted: dict[str, str | None], data: st.DataObject) -> None:
    text, names = "", {}
    for key, name in wanted.items():
        line = text.count("\n") + 1
        text += data.draw(SPACE) + (key if name is None else f"{name}{data.draw(SPACE)}:{data.draw(SPACE)}{key}")
        text += data.draw(SPACE) + data.draw(ENDS)
        names[key] = f"line-{line}" if name is None else name
    assert parse_keys(text.encode()) == names


@given(st.binary(max_size=200))
def test_any_other_content_is_an_error_and_nothing_else(content: bytes) -> None:
    with contextlib.suppress(BadKeysError):
        assert parse_keys(content)


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + LONG.encode()},
        {b"authorization": b"bearer  " + LONG.encode() + b" "},
        {b"x-api-key": LONG.encode()},
        {b"x-api-key": LONG.encode(), b"authorization": b"Bearer of-a-gateway"},
    ],
)
def test_a_key_is_found_in_either_header(tmp_path: Path, headers: dict[bytes, bytes]) -> None:
    keys = keys_of(tmp_path / "keys", f"{OTHER}\nphone: {LONG}\n")
    assert keys.holder(headers) == "phone"


@pytest.mark.parametrize(
    ("headers", "slug", "challenge"),
    [
        ({}, "key-required", b'Bearer realm="sponge"'),
        ({b"authorization": b"Basic " + LONG.encode()}, "key-required", b'Bearer realm="sponge"'),
        ({b"authorization": LONG.encode()}, "key-required", b'Bearer realm="sponge"'),
        ({b"authorization": b"Bearer"}, "key-unknown", b'Bearer realm="sponge", error="invalid_token"'),
        ({b"authorization": b"Bearer " + LONG[:-1].encode()}, "key-unknown", None),
        ({b"x-api-key": b""}, "key-unknown", None),
        ({b"x-api-key": b"\xff" * 70_000}, "key-unknown", None),
        ({b"x-api-key": b"phone"}, "key-unknown", None),
        ({b"x-api-key": b"phone: " + LONG.encode()}, "key-unknown", None),
        ({b"x-api-key": b"wrong", b"authorization": b"Bearer " + LONG.encode()}, "key-unknown", None),
    ],
)
def test_without_a_key_in_force_it_is_401(
    tmp_path: Path, headers: dict[bytes, bytes], slug: str, challenge: bytes | None
) -> None:
    keys = keys_of(tmp_path / "keys", f"phone: {LONG}\n")
    with pytest.raises(ProblemError) as error:
        keys.holder(headers)
    assert (error.value.status, error.value.slug) == (401, slug)
    if challenge is not None:
        assert dict(error.value.headers)[b"www-authenticate"] == challenge
    assert LONG not in error.value.detail


def test_keys_are_exchanged_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = keys_of(path, f"phone: {LONG}\n")
    path.write_text(f"phone: {OTHER}\n")
    keys.load()
    assert keys.holder({b"x-api-key": OTHER.encode()}) == "phone"
    with pytest.raises(ProblemError):
        keys.holder({b"x-api-key": LONG.encode()})
    for bad in ("", f"phone: {LONG} {LONG}\n"):
        path.write_text(bad)
        with pytest.raises(SpongeError, match=r"api-keys-file .*keys: ") as error:
            keys.load()
        assert LONG not in str(error.value)
        assert keys.holder({b"x-api-key": OTHER.encode()}) == "phone"


def test_short_keys_are_warned_of_by_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        keys_of(tmp_path / "keys", f"phone: {LONG}\nsecret: me\nalso-short\n")
    (record,) = caplog.records
    assert (record.getMessage(), vars(record)["fields"]) == ("keys.short", {"keys": 2, "least": 16})
