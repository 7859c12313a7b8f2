"""Answers that a connection gives itself, to requests that no application sees."""

from __future__ import annotations

from sponge_server.protocol.problems import PROBLEM_TYPE, ProblemError, retry_after

__all__ = [
    "MALFORMED",
    "MOST_HEAD",
    "MOST_HEADERS",
    "NO_PROXY",
    "PLAIN_HTTP",
    "TOO_LONG",
    "TOO_MANY",
    "TOO_SLOW",
    "refusal",
]

MOST_HEAD, MOST_HEADERS = 64 << 10, 256
"""Bytes and number of headers of one request, trailers included. The parser itself has no limit."""

MALFORMED = ProblemError(400, "malformed", "this is not valid HTTP/1.1: check the request line and headers")
TOO_LONG = ProblemError(
    431, "headers-too-large", f"the headers take more than {MOST_HEAD} bytes or are more than {MOST_HEADERS}: send less"
)
TOO_SLOW = ProblemError(408, "too-slow", "the headers of the request did not arrive in time: send them at once")
NO_PROXY = ProblemError(405, "http", "this server is no proxy: it has no CONNECT", [(b"allow", b"GET, HEAD, POST")])
PLAIN_HTTP = ProblemError(400, "plain-http", "this port speaks HTTPS: write https:// in the address")
TOO_MANY = ProblemError(
    503,
    "too-many-connections",
    "the server has reached its limit of connections: use fewer, and keep them open",
    retry_after(0),
)


def refusal(problem: ProblemError) -> bytes:
    """The complete response, which ends the connection."""
    body = problem.body()
    extra = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in problem.headers)
    head = (
        f"HTTP/1.1 {problem.status} {problem.title}\r\nContent-Type: {PROBLEM_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + body
