"""Client of the control port of model servers: reads the state by long poll, sets size and source, and lets go."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ValidationError

from sponge_core.control_api import (
    ApplyAck,
    ApplyRequest,
    ProfileReport,
    ReleaseRequest,
    SourceReport,
    SourceRequest,
    StateSnapshot,
)

__all__ = ["ControlClient", "ServerError", "StaleVersionError", "Token", "UnknownCallError"]


M = TypeVar("M", bound=BaseModel)

Token = str | tuple[str, ...]
"""A bearer token, or several that the server may have: the next one is tried when one is refused."""

ANSWER_S = 2.0
"""How long a server may take to answer, beyond the wait that it was asked for."""

RELEASE_TIMEOUT_S = 2.0
"""A server that does not answer by then gives up its operator by itself, some time later."""


class ServerError(Exception):
    """A server cannot be reached, or its response is not valid."""


class StaleVersionError(ServerError):
    """The server already runs with a newer message."""


class UnknownCallError(ServerError):
    """The server is of a version that does not know the call, or does not allow it."""


class _RefusedTokenError(ServerError):
    """The server has another token."""


REFUSALS: dict[int, type[ServerError]] = {
    401: _RefusedTokenError,
    403: UnknownCallError,
    404: UnknownCallError,
    409: StaleVersionError,
}


class ControlClient:
    """Talks to any number of servers over persistent connections; use as an async context manager.

    Args:
        may_act: asked before each change; if it says no, the call fails. None: always.
    """

    def __init__(self, may_act: Callable[[], bool] | None = None) -> None:
        self._may_act = may_act
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ControlClient:
        # No limit, because a long poll holds a connection for every pod.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def state(
        self, base_url: str, token: Token, since: int = 0, wait_s: float = 0.0, tls: ssl.SSLContext | None = None
    ) -> StateSnapshot:
        """The server's state. Raises ServerError.

        Args:
            since: version of the newest state that is known.
            wait_s: how long the server may hold the response back while nothing newer than `since` is urgent.
            tls: which certificates to accept at an https URL; by default those of public authorities.
        """
        return await self._state(base_url, f"since={since}&wait_s={wait_s:g}", token, tls, wait_s)

    async def state_at_quota(
        self, base_url: str, token: Token, milli: int, wait_s: float, tls: ssl.SSLContext | None = None
    ) -> StateSnapshot:
        """The server's state once its CPU quota is `milli`, or after `wait_s` seconds. Raises ServerError."""
        return await self._state(base_url, f"quota_milli={milli}&wait_s={wait_s:g}", token, tls, wait_s)

    async def _state(
        self, base_url: str, query: str, token: Token, tls: ssl.SSLContext | None, wait_s: float
    ) -> StateSnapshot:
        url, timeout_s = f"{base_url}/control/v1/state?{query}", wait_s + ANSWER_S
        text = await self._request("GET", url, token, tls, timeout_s=timeout_s)
        return _read(StateSnapshot, text, base_url)

    async def profile(self, base_url: str, token: Token, tls: ssl.SSLContext | None = None) -> ProfileReport:
        """Where the server's latency profile comes from; also while it starts. Raises ServerError. `tls` as above."""
        text = await self._request("GET", f"{base_url}/control/v1/profile", token, tls, timeout_s=ANSWER_S)
        return _read(ProfileReport, text, base_url)

    async def source(
        self, base_url: str, token: Token, model: str, wanted: str | None, tls: ssl.SSLContext | None = None
    ) -> SourceReport:
        """What a server has loaded of a model, after the request for a source if one is wanted. Raises ServerError.

        A source that is to be loaded is not waited for. `tls` as for `state`.
        """
        url = f"{base_url}/control/v1/models/{quote(model, safe='')}/source"
        method, body = ("GET", None) if wanted is None else ("POST", SourceRequest(source=wanted).model_dump_json())
        text = await self._request(method, url, token, tls, body=body, timeout_s=ANSWER_S)
        return _read(SourceReport, text, base_url)

    async def apply(
        self, base_url: str, token: Token, request: ApplyRequest, timeout_s: float, tls: ssl.SSLContext | None = None
    ) -> ApplyAck:
        """Sets the size to run with; returns once the running batches fit it. `tls` as for `state`.

        Raises:
            StaleVersionError: the server has a newer message.
            ServerError: not reached, or not acknowledged within `timeout_s`.
        """
        url = f"{base_url}/control/v1/apply"
        text = await self._request("POST", url, token, tls, body=request.model_dump_json(), timeout_s=timeout_s)
        return _read(ApplyAck, text, base_url)

    async def release(
        self, base_url: str, token: Token, request: ReleaseRequest, tls: ssl.SSLContext | None = None
    ) -> None:
        """Lets go: the server follows its quota from now on. `tls` as for `state`.

        Raises:
            StaleVersionError: the server has a newer message.
            ServerError: not reached.
        """
        url = f"{base_url}/control/v1/release"
        await self._request("POST", url, token, tls, body=request.model_dump_json(), timeout_s=RELEASE_TIMEOUT_S)

    async def _request(
        self,
        method: str,
        url: str,
        token: Token,
        tls: ssl.SSLContext | None,
        *,
        timeout_s: float,
        body: str | None = None,
    ) -> bytes:
        if method != "GET" and self._may_act is not None and not self._may_act():
            raise ServerError("this operator no longer leads")
        *others, last = (token,) if isinstance(token, str) else token or ("",)
        for other in others:
            try:
                return await self._attempt(method, url, other, tls, timeout_s=timeout_s, body=body)
            except _RefusedTokenError:
                continue
        return await self._attempt(method, url, last, tls, timeout_s=timeout_s, body=body)

    async def _attempt(
        self, method: str, url: str, token: Token, tls: ssl.SSLContext | None, *, timeout_s: float, body: str | None
    ) -> bytes:
        if self._session is None:
            raise RuntimeError("ControlClient is used outside of its context")
        headers = {"Authorization": f"Bearer {token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                ssl=True if tls is None else tls,
            ) as response:
                text = await response.read()
                if response.status != 200:
                    raise REFUSALS.get(response.status, ServerError)(f"HTTP {response.status}: {_detail(text)}")
                return text
        except TimeoutError:
            raise ServerError(f"{url} did not answer within {timeout_s:g} s") from None
        except aiohttp.ClientError as error:
            raise ServerError(f"{url}: {error}") from None


def _read(kind: type[M], text: bytes, base_url: str) -> M:
    """The message in the body of a response from `base_url`. Raises ServerError."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        raise ServerError(f"{base_url} answers with a {kind.__name__} of another version: {where}") from None


def _detail(body: bytes) -> str:
    """The detail of a problem+json body, or the first characters of any other body."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:100]
