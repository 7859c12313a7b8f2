"""One HTTP connection: what a client may send, how slowly, and in which order it is answered. Adapts uvicorn."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sponge_server.protocol.http_flow import Flow
from sponge_server.protocol.http_refusals import (
    MALFORMED,
    MOST_HEAD,
    MOST_HEADERS,
    NO_PROXY,
    TOO_LONG,
    TOO_MANY,
    TOO_SLOW,
    refusal,
)
from sponge_server.protocol.problems import ProblemError
from sponge_system.logs import event

__all__ = ["CLOSE_GRACE_S", "LINGER_S", "HttpConfig", "HttpConnection", "HttpLimits"]

log = logging.getLogger(__name__)

CLOSE_GRACE_S = 3
"""Seconds for connections that are still sending a response when the server stops."""

LINGER_S, LINGER_BYTES = 1.0, 16 << 20
"""Lingering close: read and discard up to 1 s or 16 MiB after the last response of a connection. If it were closed at
once, it would be reset, and a client that writes before it reads would not see the response."""

MOST_REFUSED = 256
"""Refused connections of a port that linger at once, so that they cannot use up the open files; others are reset."""

MOST_FRAMING, FRAMING_PER_BYTE = 64 << 10, 8
"""Bytes of framing of a body, and more for each of its bytes: a chunk of a single byte needs five. No more than the
first number is saved up for later."""

HEAD_STEP, BODY_STEP = 8 << 10, 16 << 10
"""Bytes that are parsed at once, of heads and of chunked bodies. No more requests than fit are looked at ahead."""

TURN_CHUNKS = 1024
"""Pieces of a body that are parsed before other connections have a turn. A chunk of a single byte costs as much time as
one of kilobytes, and one read of the socket has tens of thousands of them."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of one port.

    Attributes:
        header_timeout_s: time for the headers of a request, from its first byte; for the first request of a connection,
            from the start of the connection. Also the time for what remains of a body after its answer.
        keep_alive_s: how long a connection may be idle between requests.
        write_timeout_s: how long a client may leave a response unread.
        max_connections: open connections; more are refused with 503.
        backlog: connections that the kernel queues until they are accepted.
    """

    header_timeout_s: float
    keep_alive_s: float
    write_timeout_s: float
    max_connections: int
    backlog: int


class HttpConfig(uvicorn.Config):
    """The library's configuration with the limits of the port. `leaving`: every response ends its connection."""

    def __init__(self, app: ASGIApp, limits: HttpLimits) -> None:
        super().__init__(
            app,
            http=HttpConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=limits.backlog,
            timeout_graceful_shutdown=CLOSE_GRACE_S,
        )
        self.limits = limits
        self.leaving = False
        self.refused = 0  # connections that linger after their refusal


class _RefusedError(Exception):
    """Ends the parser from inside of one of its callbacks."""


class HttpConnection(HttpToolsProtocol):
    """One connection.

    The library starts the application at the end of a request's headers. This class bounds what comes before (bytes,
    time) and beside it (framing, requests sent ahead), and closes the connection so that the client sees its answers.
    A request that offers another protocol, as Java's client does, is served as HTTP/1.1.
    """

    def __init__(self, config: HttpConfig, *args: Any, **more: Any) -> None:
        super().__init__(config, *args, **more)
        self._own = config
        self.timeout_keep_alive = config.limits.keep_alive_s  # type: ignore[assignment]
        self._ended = False  # nothing is read any more; the connection closes after its last response
        self._last_word: ProblemError | None = None  # sent after the responses that are due before it
        self._refused = False  # for it was one too many
        self._refusal = MALFORMED
        self._discarded_bytes = 0
        self._in_body = self._chunked = False
        self._body_left = 0  # bytes that can be nothing but body
        self._begun = False  # a request's head has begun, and is not complete
        self._head_bytes = 0
        self._raw_head_bytes = 0  # since the last head, whatever the parser made of them
        self._framing_bytes = 0
        self._turn_chunks = 0
        self._ahead = bytearray()  # unparsed: behind a request that waits for others, or until the next turn
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self._ahead)
        self._responses = _ResponseTransport(self, transport)
        if len(self.connections) > self._own.limits.max_connections:
            self._refuse()
        else:
            self._await_rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._ended = True
        if self._refused:
            self._own.refused -= 1
        super().connection_lost(exc)
        # What refers to the connection, or only the garbage collector would find it, in pauses of the event loop.
        self.pipeline.clear()
        self.cycle = self._responses = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._ended or self._last_word is not None:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > LINGER_BYTES:
                self.transport.abort()
        elif self._ahead:
            self._ahead += data
        else:
            self._parse(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._begun = True
        if self._timer is None and self._answered:
            self._unset_keepalive_if_required()
            self._await_rest()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers too: they come as headers of the same request.
        self._count_head(len(name) + len(value) + 4 if len(self.headers) < MOST_HEADERS else MOST_HEAD + 1)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._disarm()
        self._in_body, self._begun = True, False
        self._raw_head_bytes = self._framing_bytes = 0
        length = dict(self.headers).get(b"content-length")
        self._chunked = length is None
        self._body_left = BODY_STEP if length is None else int(length)
        super().on_headers_complete()
        self.cycle.transport = self._responses  # type: ignore[assignment]
        if self._own.leaving:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._turn_chunks += 1
        if not self._chunked:
            self._body_left -= len(body)
        self._framing_bytes = max(self._framing_bytes - (1 + FRAMING_PER_BYTE) * len(body), -MOST_FRAMING)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_body = False
        self._body_left = self._framing_bytes = 0
        super().on_message_complete()
        if self.cycle.response_complete:
            # The rest of a body whose request was refused early: from here on the connection is idle.
            self._disarm()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        if self._ended:
            return
        none_due = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._ahead:
            if not self.pipeline:
                # Later, because what follows may be answered at once, inside of this very call.
                self.loop.call_soon(self._parse_ahead)
        elif none_due and self._last_word is not None:
            self.transport.write(refusal(self._last_word))
            self._close_lingering()
        elif none_due and (self._in_body or self._begun):
            self._unset_keepalive_if_required()
            self._await_rest()

    def end(self) -> None:
        """Closes the connection after its last response, but not while its client is still sending."""
        if self.cycle is None or not self.cycle.more_body:
            self.transport.close()
        else:
            self._close_lingering()

    def shutdown(self) -> None:
        """Ends an idle connection; a busy one ends with its response."""
        super().shutdown()
        if self.scheme == "https" and self.transport.is_closing():
            # TLS waits for the other end to close too, and idle clients do not look.
            self._abort_soon()

    def leave(self) -> None:
        """Makes the response to the present request the last one of this connection."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    @property
    def _answered(self) -> bool:
        """Whether no response is due."""
        return self.cycle is None or self.cycle.response_complete

    def _parse(self, data: bytes) -> None:
        """Feeds the parser, in small steps between bodies; stops behind a request that waits for others."""
        view, at = memoryview(data), 0
        self._turn_chunks = 0
        while at < len(data) and not (self._ended or self._last_word is not None or self.transport.is_closing()):
            if self.pipeline:
                self._put_off(view[at:])
                return
            if self._turn_chunks > TURN_CHUNKS:
                self._put_off(view[at:])
                self.loop.call_soon(self._parse_ahead)
                return
            if self._timer is None and self._answered:
                self._await_rest()
            step = view[at : at + max(HEAD_STEP, self._body_left)]
            at += len(step)
            if self._in_body:
                self._framing_bytes += len(step)
            else:
                self._raw_head_bytes += len(step)
            self._feed(step)
            if self._raw_head_bytes > MOST_HEAD + HEAD_STEP or self._framing_bytes > MOST_FRAMING:
                self._refusal = TOO_LONG
                self._fail_with(TOO_LONG)

    def _feed(self, data: memoryview) -> None:
        self._unset_keepalive_if_required()
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                except httptools.HttpParserUpgrade as offer:
                    data = data[offer.args[0] :]
                    self._decline_offer()
                else:
                    return
        except httptools.HttpParserError:
            self._fail_with(self._refusal)

    def _decline_offer(self) -> None:
        """Parses the head of a request again, without its offer of another protocol (`Upgrade: h2c`).

        A server may ignore an offer, but the parser would drop the body behind it, and every later request.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self._refusal = NO_PROXY
            raise httptools.HttpParserError
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"\r\n".join((*lines, b"", b"")))

    def _put_off(self, rest: memoryview) -> None:
        self._ahead += rest
        self.flow.pause_reading()

    def _parse_ahead(self) -> None:
        if not self._ended and self._last_word is None:
            data = bytes(self._ahead)
            self._ahead.clear()
            self._parse(data)
        self.flow.resume_reading()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MOST_HEAD:
            self._refusal = TOO_LONG
            raise _RefusedError

    def _await_rest(self) -> None:
        """Bounds the time for the head of a request, or for the rest of a body that is discarded."""
        self._disarm()
        self._timer = self.loop.call_later(self._own.limits.header_timeout_s, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            if self._begun:
                self._fail_with(TOO_SLOW)
            else:
                self.transport.close()

    def _fail_with(self, problem: ProblemError) -> None:
        """Responds to a request that cannot be read, after the responses that are due before it, and closes."""
        if self._ended or self._last_word is not None:
            return
        broken = self.cycle if self._in_body else None  # None: the head of a request, which has no cycle yet
        queued = [entry for entry in self.pipeline if entry[0] is broken]
        if broken is not None and not queued:
            if not broken.response_started:
                self.transport.write(refusal(problem))
            self._close_lingering()
        elif not queued and self._answered:
            self.transport.write(refusal(problem))
            self._close_lingering()
        else:
            for entry in queued:
                self.pipeline.remove(entry)
            self._last_word = problem
            self._disarm()

    def _close_lingering(self) -> None:
        if self._ended or self.transport.is_closing():
            return
        self._ended = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._disarm()
        self._unset_keepalive_if_required()
        self._ahead.clear()
        self.flow.resume_reading()
        if self.scheme == "https":
            self.transport.close()  # TLS has no half-closed connection: it reads and discards by itself
        else:
            self.transport.write_eof()
        self._abort_soon()

    def _abort_soon(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _refuse(self) -> None:
        self.connections.discard(self)
        event(log, "http.too_many_connections", logging.WARNING, most=self._own.limits.max_connections)
        if self._own.refused >= MOST_REFUSED:
            self.transport.abort()
            return
        self._own.refused += 1
        self._refused = True
        self.transport.write(refusal(TOO_MANY))
        self._close_lingering()


class _ResponseTransport:
    """The connection's transport as responses see it; the connection decides when it is closed."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, connection: HttpConnection, transport: asyncio.Transport) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = connection.end
