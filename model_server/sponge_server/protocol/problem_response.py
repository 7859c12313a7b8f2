"""Problems as responses of the web framework, for the data port and the control port."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sponge_server.protocol.catch_all import BUG
from sponge_server.protocol.problems import PROBLEM_TYPE, ProblemError

__all__ = ["EXCEPTION_HANDLERS"]


async def _on_problem(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = ProblemError(error.status_code, "http", error.detail)
    elif not isinstance(error, ProblemError):
        error = BUG  # the framework raises it again afterwards, and `CatchAll` logs it
    headers = {name.decode(): value.decode() for name, value in error.headers}
    return Response(error.body(), error.status, headers, PROBLEM_TYPE)


EXCEPTION_HANDLERS: dict[int | type[Exception], Callable[[Request, Exception], Coroutine[Any, Any, Response]]] = {
    ProblemError: _on_problem,
    HTTPException: _on_problem,
    Exception: _on_problem,
}
"""For an application: its own problems, those that the framework raises (404, 405) and bugs, as problem+json."""
