"""The client and `sponge load` at a server with TLS and an API key."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path

import numpy as np
import pytest
from certificates_kit import Authority
from oip_server import OipServer, Received, Reply

from sponge_client.access import read_api_key, trusting
from sponge_client.client import SpongeClient
from sponge_client.errors import InferenceError, LoadError, UnreachableError
from sponge_client.load import LoadSpec
from sponge_client.oip import Tensor
from sponge_client.wire import Address

AUTHORITY = Authority()
KEY = "c8f1b6e2a94d4f0e9b7a"
INPUT = Tensor("x", "FP32", (1, 2, 3), np.zeros((1, 2, 3), "<f4").tobytes())


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    pair = AUTHORITY.issue()
    (tmp_path / "pair").write_bytes(pair.cert + pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "pair")
    return context


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(AUTHORITY.pem)
    return path


def with_key(request: Received) -> Reply:
    if request.headers.get("authorization") == f"Bearer {KEY}":
        return Reply()
    return Reply(401, b'{"detail": "this server asks for an API key"}')


async def test_a_client_trusts_an_authority_and_shows_its_key(tls: ssl.SSLContext, ca_file: Path) -> None:
    async with OipServer(with_key, tls=tls) as server:
        async with SpongeClient(server.url, trusting(ca_file), KEY) as client:
            assert (await client.infer("tiny", [INPUT], slo_s=5.0)).outputs == {}
        async with SpongeClient(server.url, trusting(ca_file)) as client:
            with pytest.raises(InferenceError, match="asks for an API key") as refused:
                await client.infer("tiny", [INPUT], slo_s=5.0)
            assert refused.value.status == 401


async def test_a_certificate_of_nobody_we_know_is_not_trusted(tls: ssl.SSLContext) -> None:
    async with OipServer(tls=tls) as server, SpongeClient(server.url) as client:
        with pytest.raises(UnreachableError, match=r"its certificate is not trusted .*: give --ca-file"):
            await client.metadata("tiny")
    assert server.received == []


@pytest.mark.parametrize("text", [KEY, f"  {KEY}\r\n", f"\ufeff{KEY}\n"])
def test_a_key_file_holds_one_key(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text, encoding="utf-8")
    assert read_api_key(tmp_path / "key") == KEY


@pytest.mark.parametrize("text", ["", "\n", f"{KEY}\n{KEY}\n", f"phone: {KEY}", "schlüssel", "a\x00b"])
def test_a_key_file_that_holds_something_else_is_refused_unquoted(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text, encoding="utf-8")
    with pytest.raises(LoadError, match=r"--api-key-file \S+: write the key into it and nothing else") as error:
        read_api_key(tmp_path / "key")
    assert KEY not in str(error.value)


def test_files_that_are_missing_or_hold_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("nothing")
    with pytest.raises(LoadError, match=r"--ca-file \S+/ca: no certificates in PEM"):
        trusting(tmp_path / "ca")
    with pytest.raises(LoadError, match=r"--ca-file \S+/none: No such file"):
        trusting(tmp_path / "none")
    with pytest.raises(LoadError, match=r"--api-key-file \S+/none: No such file"):
        read_api_key(tmp_path / "none")


def test_an_authority_is_for_https_and_a_key_is_not_shown() -> None:
    with pytest.raises(LoadError, match="--ca-file is for an https:// address"):
        Address("http://127.0.0.1:1", trusting(None))
    assert Address("https://example").port == 443
    spec = LoadSpec(url="https://example", arrivals=[], model="m", duration_s=1.0, slo_s=1.0, api_key=KEY)
    assert KEY not in repr(spec)


@pytest.mark.slow
async def test_sponge_load_over_tls_with_a_key(tmp_path: Path, tls: ssl.SSLContext, ca_file: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    options = ["--model", "tiny", "--rate", "30", "--duration-s", "1", "--json", "--ca-file", str(ca_file)]
    options += ["--api-key-file", str(tmp_path / "key")]
    async with OipServer(with_key, tls=tls) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sponge_cli.main", "load", "--url", server.url, *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err) == (0, b"")
    figures = json.loads(out)
    assert figures["in_time"] == figures["sent"] > 10
