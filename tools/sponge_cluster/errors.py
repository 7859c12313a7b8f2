"""The error of this package: a problem with the local cluster that a user can repair."""

from __future__ import annotations

from sponge_core.errors import SpongeError

__all__ = ["ClusterError"]


class ClusterError(SpongeError):
    """The local cluster cannot be started, stopped or reached; the message says what to do."""
