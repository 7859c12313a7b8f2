"""API keys at the REST port: what is open to everybody, and the refusal of all else without a key.

Open are only the questions whether server and model live and are ready, as kubelets and load balancers have no key, and
what requires the control token.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from sponge_server.protocol.problem_response import problem_response
from sponge_server.protocol.problems import ProblemError
from sponge_server.security.api_keys import ApiKeys

__all__ = ["KeyGuard"]

OPEN_PATHS = re.compile(
    r"/v2/health/(live|ready)|/v2/models/[^/]+(/versions/[^/]+)?/ready|/v2/repository/models/[^/]+/(load|unload)"
)
"""The last ones require the control token instead."""


class KeyGuard:
    """ASGI application around another one."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if OPEN_PATHS.fullmatch(scope["path"]) is None:
            try:
                self._keys.holder(dict(scope["headers"]))
            except ProblemError as problem:
                app = problem_response(problem)
        await app(scope, receive, send)
