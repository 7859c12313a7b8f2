"""A small asyncio client: inference requests with deadlines.

For programs that send a few requests and use the answers. The load generator has its own connections, which time a send
more precisely than aiohttp.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from sponge_client.access import key_headers
from sponge_client.errors import ExpiredError, InferenceError, ServerError, ShedError, UnreachableError
from sponge_client.oip import InferBody, ModelMetadata, Output, Tensor, decode, encode

__all__ = ["InferResult", "SpongeClient", "deadline_headers"]


def deadline_headers(sent_at: float, slo_s: float) -> dict[str, str]:
    """Headers with the deadline: the request was sent at `sent_at` (epoch seconds), its answer is due `slo_s` later."""
    return {"x-sponge-sent-at": f"{sent_at:.6f}", "x-sponge-slo-ms": f"{slo_s * 1000:.3f}"}


@dataclass(frozen=True, slots=True)
class InferResult:
    """An answer: its outputs by name, the seconds since `sent_at`, and the `Server-Timing` header."""

    outputs: dict[str, Output]
    latency_s: float
    server_timing: str


class SpongeClient:
    """Connections to one server; an async context manager.

    Args:
        url: address of the data port, e.g. `http://127.0.0.1:8080`.
        tls: which certificates to trust at an https URL; by default those of this machine's authorities.
        api_key: for a server that asks for one.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None, api_key: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._tls = tls
        self._key = key_headers(api_key)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=True if self._tls is None else self._tls)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._key)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def metadata(self, model: str) -> ModelMetadata:
        """The model's inputs. Raises UnreachableError, or ServerError if the server has no such model."""
        status, _, body = await self._exchange("GET", f"/v2/models/{model}", timeout_s=10.0)
        if status == 401:
            raise ServerError(f"{self._url} answers 401: {_detail(body)}; give --api-key-file")
        if status == 404:
            raise ServerError(f"{self._url} has no model {model!r}; give --model as the server was started with")
        if status != 200:
            raise ServerError(f"{self._url}/v2/models/{model} answers {status}: {_detail(body)}")
        try:
            return ModelMetadata.parse(json.loads(body))
        except ValueError:
            raise ServerError(
                f"{self._url}/v2/models/{model} does not answer with JSON: is this a model server?"
            ) from None

    async def ready(self, model: str) -> bool:
        """Whether the model accepts requests now. Raises UnreachableError."""
        status, _, _ = await self._exchange("GET", f"/v2/models/{model}/ready", timeout_s=10.0)
        return status == 200

    async def infer(
        self, model: str, inputs: Sequence[Tensor], slo_s: float, sent_at: float | None = None
    ) -> InferResult:
        """Sends one request and waits for its answer, at most for twice the deadline.

        Args:
            slo_s: seconds from the send time until the answer is due.
            sent_at: epoch seconds from which the deadline counts; now by default.

        Raises:
            ShedError: the server refused the request at once, as it could not meet the deadline.
            ExpiredError: the request waited in the server's queue until it could not meet the deadline.
            InferenceError: any other refusal, with the server's reason.
            UnreachableError: no server answers, or it went away.
        """
        return await self.infer_body(model, encode(inputs), slo_s, sent_at)

    async def infer_body(self, model: str, body: InferBody, slo_s: float, sent_at: float | None = None) -> InferResult:
        """Like `infer`, for a request that is already encoded."""
        sent_at = time.time() if sent_at is None else sent_at
        headers = {**body.headers, **deadline_headers(sent_at, slo_s)}
        status, answer_headers, answer = await self._exchange(
            "POST", f"/v2/models/{model}/infer", timeout_s=2 * slo_s, headers=headers, data=body.data
        )
        if status != 200:
            kind = {503: ShedError, 504: ExpiredError}.get(status, InferenceError)
            raise kind(status, _detail(answer))
        latency_s = time.time() - sent_at
        return InferResult(decode(answer_headers, answer), latency_s, answer_headers.get("server-timing", ""))

    async def _exchange(
        self, method: str, path: str, timeout_s: float, **arguments: Any
    ) -> tuple[int, dict[str, str], bytes]:
        if self._session is None:
            raise RuntimeError("use SpongeClient as an async context manager")
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(method, self._url + path, timeout=timeout, **arguments) as response:
                headers = {name.lower(): value for name, value in response.headers.items()}
                return response.status, headers, await response.read()
        except TimeoutError:
            raise UnreachableError(f"{self._url} has not answered within {timeout_s:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise UnreachableError(
                f"{self._url}: its certificate is not trusted ({error.certificate_error}): give --ca-file"
            ) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise UnreachableError(
                f"cannot reach {self._url} ({error}): start a server with 'sponge serve', or correct the address"
            ) from None


def _detail(body: bytes) -> str:
    """The reason in a problem+json or OIP error body, else the start of the body."""
    try:
        document = json.loads(body)
        return str(document.get("detail") or document.get("error") or document)
    except (ValueError, AttributeError):
        return body[:200].decode(errors="replace")
