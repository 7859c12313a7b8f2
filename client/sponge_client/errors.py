"""What can go wrong between a client and its server, each with the cure where the user has one."""

from __future__ import annotations

from sponge_core.errors import SpongeError

__all__ = ["ExpiredError", "InferenceError", "LoadError", "ServerError", "ShedError", "UnreachableError"]


class LoadError(SpongeError):
    """A load that cannot be sent as asked."""


class ServerError(SpongeError):
    """The server answered, but not with what was asked for."""


class UnreachableError(SpongeError):
    """No server answers at the address."""


class InferenceError(ServerError):
    """A request that has no answer; `status` is that of HTTP."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class ShedError(InferenceError):
    """Refused at admission: it could not have been answered in time."""


class ExpiredError(InferenceError):
    """Dropped from the queue when its deadline could not be met any more."""
