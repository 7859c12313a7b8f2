"""What the control loop resizes: a server whose CPU quota can be observed and set.

`PodTarget` patches a pod's resize subresource, `CgroupTarget` writes a local cgroup.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Protocol

from sponge_operator.autoscale.ceiling import Bound, Wait
from sponge_operator.autoscale.quota_state import Observed
from sponge_operator.clients.server import Token

__all__ = ["CpuQuota", "QuotaRefusedError", "ResizableTarget", "Starting", "TargetGoneError"]


class TargetGoneError(Exception):
    """The target no longer exists."""


class QuotaRefusedError(Exception):
    """A quota was refused.

    Args:
        why: what is possible instead.
    """

    def __init__(self, why: Bound | Wait) -> None:
        super().__init__(why.message)
        self.why = why


@dataclass(frozen=True, slots=True)
class Starting:
    """A server that is not ready.

    Attributes:
        has_milli: its size now, or the size with which it will be started.
        startup_milli: the size that it should start with.
    """

    has_milli: int
    startup_milli: int


class CpuQuota(Protocol):
    """A CPU quota in millicores."""

    @property
    def name(self) -> str:
        """For logs and messages."""
        ...

    def observe(self, quota_milli: int | None) -> Observed:
        """Its present state.

        Args:
            quota_milli: the quota that the server itself reads, if known; it may be newer than other sources.
        """
        ...

    async def set_quota(self, milli: int) -> None:
        """Requests a quota; returns before it is in force. Raises QuotaRefusedError or TargetGoneError."""
        ...

    async def settled(self, milli: int, deadline: float) -> Observed:
        """Waits until `milli` is in force or refused, or until the deadline on the loop's clock; returns the state."""
        ...


class ResizableTarget(CpuQuota, Protocol):
    """A quota with the server that runs under it."""

    @property
    def token(self) -> Token:
        """For the server's control port."""
        ...

    @property
    def tls(self) -> ssl.SSLContext | None:
        """Which certificates to accept from the control port; None where it speaks plain HTTP."""
        ...

    def control_url(self) -> str:
        """The server's control port. Raises ServerError while the server has no address."""
        ...

    def starting(self) -> Starting | None:
        """The sizes of a server that starts, or starts again; None once it is ready."""
        ...
