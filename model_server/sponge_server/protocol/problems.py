"""Errors on the wire: problem+json documents (RFC 9457), and one exception for all of them.

The extra member `error` repeats the detail, because Open Inference Protocol clients look for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import orjson

__all__ = ["ELSEWHERE", "PROBLEM_TYPE", "ProblemError", "retry_after"]

PROBLEM_TYPE = "application/problem+json"

LONGEST_DETAIL = 600
"""Characters of a detail. Details quote the request, gRPC carries them in headers, and nobody reads more."""

LONGEST_RETRY_S = 60
"""A backlog of minutes is a guess, because the service may have grown by then."""

ELSEWHERE = (b"x-sponge-elsewhere", b"1")
"""The header of a refusal whose reason is this server, its load or its state: another one may answer in time."""

TITLES = {
    400: "Bad request",
    401: "Credentials required",
    403: "Control is off",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    413: "Body too large",
    415: "Unsupported media type",
    422: "Cannot be processed",
    429: "Quota used up",
    431: "Headers too large",
    500: "The model failed",
    503: "Not now",
    504: "Deadline cannot be met",
}


class ProblemError(Exception):
    """A response that is an error. Raised anywhere in a handler, written by the protocol's adapter.

    Attributes:
        status: HTTP status code.
        slug: kind of problem, for programs.
        detail: what is wrong and what to do, for people.
        headers: extra response headers.
    """

    def __init__(self, status: int, slug: str, detail: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        if len(detail) > LONGEST_DETAIL:
            detail = f"{detail[: LONGEST_DETAIL // 2]} ... {detail[-LONGEST_DETAIL // 2 :]}"
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.headers = tuple(headers)

    def forget(self) -> None:
        """Drops the frames that it came through. They hold the request's body until the garbage collector runs."""
        self.__traceback__ = self.__context__ = None

    @property
    def title(self) -> str:
        """The kind of error in words."""
        return TITLES.get(self.status, "Error")

    def body(self) -> bytes:
        """The document."""
        return orjson.dumps(
            {
                "type": f"urn:sponge:problem:{self.slug}",
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
                "error": self.detail,
            }
        )


def retry_after(seconds: float) -> tuple[tuple[bytes, bytes], ...]:
    """The `Retry-After` header: whole seconds, at least one."""
    return ((b"retry-after", str(max(1, min(LONGEST_RETRY_S, math.ceil(seconds)))).encode()),)
