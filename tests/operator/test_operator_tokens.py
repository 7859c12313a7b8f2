"""The control token: where it comes from, what is kept of former ones, and how a server that has another is reached."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from test_operator_models import body
from test_operator_status import snapshot

from sponge_operator.clients.kube import Kube
from sponge_operator.clients.server import ControlClient, ServerError
from sponge_operator.clients.tokens import REMEMBERED, Tokens
from sponge_operator.clients.trust import Trust
from sponge_operator.reconcile.workload import Workload
from sponge_operator.resources.manifests import build_secret
from sponge_operator.resources.model import parse_service
from sponge_operator.settings import OperatorSettings

NAME = "digits-sponge-control"


class FakeKube:
    """Holds the Secret of one service."""

    def __init__(self, token: bytes | None) -> None:
        self.secret: dict[str, Any] | None = None
        self._version = 0
        if token is not None:
            self.write(token)

    def write(self, token: bytes) -> None:
        manifest = build_secret(parse_service(body()), "")
        self.secret = self._stored({**manifest, "data": {"token": base64.b64encode(token).decode()}})

    def _stored(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        given = {"uid": "u", "generation": 1, "resourceVersion": str(self._version)}
        return {**manifest, "metadata": {**manifest["metadata"], **given}}

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self.secret if (kind, name) == ("Secret", NAME) else None

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        stored = self._stored(manifest)
        if manifest["kind"] == "Secret":
            self.secret = stored
        return stored


async def applied(kube: FakeKube, tokens: Tokens) -> Workload:
    service = parse_service(body())
    workload = Workload(cast(Kube, kube), service, OperatorSettings(), tokens, Trust())
    await workload.keep(service, now=0.0)
    return workload


def held(kube: FakeKube) -> str:
    assert kube.secret is not None
    return base64.b64decode(kube.secret["data"]["token"]).decode()


@pytest.mark.parametrize(
    "present", [None, b"", b" \n", b"two words", b"two\nlines", b"\xff", "ä".encode(), b"x" * 5000]
)
async def test_a_token_is_made_where_there_is_none_to_use(present: bytes | None) -> None:
    kube, tokens = FakeKube(present), Tokens()
    await applied(kube, tokens)
    assert tokens.known == (held(kube),)
    assert len(held(kube)) >= 32
    before = held(kube)
    await applied(kube, tokens)
    assert held(kube) == before


async def test_a_token_of_the_user_is_taken_and_kept() -> None:
    kube, tokens = FakeKube(b"my-own-token\n"), Tokens()
    workload = await applied(kube, tokens)
    assert (held(kube), tokens.known) == ("my-own-token", ("my-own-token",))
    kube.write(b"another")
    await workload.learn_access(parse_service(body()))
    assert tokens.known == ("another", "my-own-token")


async def test_a_lost_secret_comes_back_with_the_token_that_the_servers_know() -> None:
    kube, tokens = FakeKube(b"first"), Tokens()
    await applied(kube, tokens)
    kube.secret = None
    await applied(kube, tokens)
    assert (held(kube), tokens.known) == ("first", ("first",))


@pytest.mark.parametrize("left", [None, b"two words"])
async def test_a_secret_that_is_lost_or_spoilt_is_made_again_by_whoever_looks_for_it(left: bytes | None) -> None:
    kube, tokens = FakeKube(b"first"), Tokens()
    workload = await applied(kube, tokens)
    kube.secret = None
    if left is not None:
        kube.write(left)
    assert workload.due_at() > 1.0
    await workload.learn_access(parse_service(body()))
    assert workload.due_at() < 1.0
    await workload.keep(parse_service(body()), now=1.0)
    assert (held(kube), tokens.known) == ("first", ("first",))
    assert workload.due_at() > 1.0


def test_few_former_tokens_are_kept_and_the_newest_comes_first() -> None:
    tokens = Tokens()
    for token in ("a", "b", "c", "d", "c", "c"):
        tokens.learn(token)
    assert tokens.known == ("c", "d", "b")
    assert len(tokens.known) == REMEMBERED


@pytest.mark.parametrize(
    ("server_has", "known", "asked"),
    [
        ("new", ("new", "old"), ["new"]),
        ("old", ("new", "old"), ["new", "old"]),
        ("older", ("new", "old"), ["new", "old"]),
        ("new", (), [""]),
    ],
)
async def test_each_known_token_is_tried(server_has: str, known: tuple[str, ...], asked: list[str]) -> None:
    seen: list[str] = []

    async def state(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"].removeprefix("Bearer").strip())
        if seen[-1] != server_has:
            return web.Response(status=401, text='{"detail": "send the token"}')
        return web.Response(text=snapshot(version=7).model_dump_json())

    app = web.Application()
    app.router.add_get("/control/v1/state", state)
    async with TestServer(app) as server, ControlClient() as client:
        url = str(server.make_url("/")).rstrip("/")
        if server_has in known:
            assert (await client.state(url, known)).version == 7
        else:
            with pytest.raises(ServerError, match="HTTP 401"):
                await client.state(url, known)
    assert seen == asked
