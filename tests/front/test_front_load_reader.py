"""Reading the load of a pod that starts, stops, lies or holds its tongue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sponge_core.errors import SpongeError
from sponge_core.routing.pod_load import PodLoad
from sponge_front import load_reader
from sponge_front.load_reader import LoadReader, read_token
from sponge_front.pods import Pod

REPORT = PodLoad(now_s=1.0, accepting=True, cores_milli=500, most_milli=1000, batch_cap=4, lanes=1)


class Reporter:
    """The control port of a pod: each connection gets the next of `scripts`, and the last one again and again.

    A script is a list of lines; None in it: nothing more comes, and the connection stays open.
    """

    def __init__(self, *scripts: list[bytes | None]) -> None:
        self.scripts = list(scripts)
        self.tokens: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append(request.headers["authorization"])
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        response = web.StreamResponse()
        await response.prepare(request)
        for line in script:
            if line is None:
                await asyncio.sleep(3600)
            else:
                await response.write(line)
        return response

    @asynccontextmanager
    async def heard(self, token_file: Path) -> AsyncIterator[asyncio.Queue[int]]:
        """Context in which a reader follows; the queue gets the cores of each report, in millicores."""
        app = web.Application()
        app.router.add_get("/control/v1/load", self.answer)
        queue: asyncio.Queue[int] = asyncio.Queue()
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            assert server.port is not None
            reader = LoadReader(session, token_file, lambda _, load: queue.put_nowait(load.cores_milli))
            task = asyncio.create_task(reader.follow(Pod("a", "127.0.0.1", 1, 1, server.port)))
            try:
                yield queue
            finally:
                task.cancel()
                await asyncio.wait((task,))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("secret\n")
    return tmp_path / "token"


def line(cores_milli: int) -> bytes:
    return REPORT.model_copy(update={"cores_milli": cores_milli}).model_dump_json().encode() + b"\n"


async def take(queue: asyncio.Queue[int], count: int) -> list[int]:
    return [await asyncio.wait_for(queue.get(), 20) for _ in range(count)]


async def test_every_report_is_taken_and_a_report_that_ends_is_asked_for_anew(token_file: Path) -> None:
    reporter = Reporter([line(1), line(2)], [line(3), None])
    async with reporter.heard(token_file) as queue:
        assert await take(queue, 3) == [1, 2, 3]
    assert reporter.tokens == ["Bearer secret"] * 2


@pytest.mark.parametrize(
    "nonsense", [b"{}\n", b"no json\n", b'{"cores_milli": 0}\n', b"x" * 3_000_000 + b"\n", b"\xff\n"]
)
async def test_nonsense_ends_the_connection_and_not_the_reader(token_file: Path, nonsense: bytes) -> None:
    async with Reporter([line(1), nonsense], [line(2), None]).heard(token_file) as queue:
        assert await take(queue, 2) == [1, 2]


async def test_a_pod_that_falls_silent_is_asked_anew(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_reader, "SILENCE_S", 0.2)
    async with Reporter([line(1), None], [line(2), None]).heard(token_file) as queue:
        assert await take(queue, 2) == [1, 2]


async def test_a_token_that_changes_is_read_again(token_file: Path) -> None:
    reporter = Reporter([line(1)])
    async with reporter.heard(token_file) as queue:
        await take(queue, 1)
        token_file.write_text("another")  # noqa: ASYNC240 - a short file
        while "Bearer another" not in reporter.tokens:
            await take(queue, 1)


def test_a_token_file_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpongeError, match=r"--token-file .*missing"):
        read_token(tmp_path / "missing")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SpongeError, match="is empty"):
        read_token(tmp_path / "empty")
