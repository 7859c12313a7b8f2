"""Errors of the client. Each message names the fix if the user has one."""

from __future__ import annotations

from sponge_core.errors import SpongeError

__all__ = ["ExpiredError", "InferenceError", "LoadError", "ServerError", "ShedError", "UnreachableError"]


class LoadError(SpongeError):
    """The load cannot be sent as requested."""


class ServerError(SpongeError):
    """The server answered with an error, or with something else than the protocol says."""


class UnreachableError(SpongeError):
    """No server answers at the address."""


class InferenceError(ServerError):
    """The server refused the request; `status` is the HTTP status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class ShedError(InferenceError):
    """The server shed the request on arrival, as it could not answer in time."""


class ExpiredError(InferenceError):
    """The server dropped the request from its queue, as it could no longer answer in time."""
