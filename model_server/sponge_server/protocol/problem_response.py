"""Problems as responses of the web framework, and small bodies, for the data port and the control port."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sponge_server.protocol.catch_all import BUG
from sponge_server.protocol.problems import PROBLEM_TYPE, ProblemError

__all__ = ["EXCEPTION_HANDLERS", "problem_response", "read_small"]


def problem_response(problem: ProblemError) -> Response:
    """The problem as a response."""
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(problem.body(), problem.status, headers, PROBLEM_TYPE)


async def read_small(request: Request, most: int, what: str) -> bytes:
    """The body of a request. `what` names it in the ProblemError 413 for one of more than `most` bytes."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise ProblemError(413, "too-large", f"the {what} has more than {most} bytes: send less")
    return body


async def _on_problem(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = ProblemError(error.status_code, "http", error.detail)
    elif not isinstance(error, ProblemError):
        error = BUG  # the framework raises it again afterwards, and `CatchAll` logs it
    return problem_response(error)


EXCEPTION_HANDLERS: dict[int | type[Exception], Callable[[Request, Exception], Coroutine[Any, Any, Response]]] = {
    ProblemError: _on_problem,
    HTTPException: _on_problem,
    Exception: _on_problem,
}
"""For an application: its own problems, those that the framework raises (404, 405) and bugs, as problem+json."""
