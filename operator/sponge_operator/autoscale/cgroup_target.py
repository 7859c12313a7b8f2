"""A server in a local cgroup as a target of the control loop, without Kubernetes."""

from __future__ import annotations

from typing import Protocol

from sponge_operator.autoscale import quota_state
from sponge_operator.autoscale.ceiling import FULL_NODE, Bound
from sponge_operator.autoscale.target import QuotaRefusedError
from sponge_system.cgroup import CgroupError

__all__ = ["CgroupTarget", "QuotaFile"]


class QuotaFile(Protocol):
    """A CPU quota that changes at once, such as `sponge_system.cgroup.Cgroup`; None is unlimited."""

    def quota_milli(self) -> int | None: ...

    def set_quota_milli(self, milli: int | None) -> None: ...


class CgroupTarget:
    """One server.

    Args:
        url: of its control port.
        token: of its control port.
        milli: the size in force.
        cgroup: that it runs in; None where there is none, so that the server's thread budget alone is its size.
    """

    def __init__(self, url: str, token: str, milli: int, cgroup: QuotaFile | None, name: str = "server") -> None:
        self._url = url
        self._milli = milli
        self._cgroup = cgroup
        self.name = name
        self.token = token
        self.tls = None

    def control_url(self) -> str:
        return self._url

    def starting(self) -> None:
        """Nothing starts a local server again."""

    def observe(self, quota_milli: int | None) -> quota_state.Observed:  # noqa: ARG002
        """The quota, read from the cgroup."""
        if self._cgroup is None:
            return quota_state.Idle(self._milli)
        milli = self._cgroup.quota_milli()
        return (
            quota_state.NotResizable("NoLimit", "the cgroup has no CPU limit")
            if milli is None
            else quota_state.Idle(milli)
        )

    async def set_quota(self, milli: int) -> None:
        """Writes the quota, which is in force at once. Raises QuotaRefusedError."""
        if self._cgroup is not None:
            before = self._cgroup.quota_milli() or self._milli
            try:
                self._cgroup.set_quota_milli(milli)
            except CgroupError as error:
                below = milli > before
                raise QuotaRefusedError(Bound("CgroupLimit", str(error), milli, FULL_NODE, before, below)) from None
            in_force = self._cgroup.quota_milli()
            if in_force is not None and in_force < milli:
                message = f"a cgroup around the server limits it to {in_force}m"
                raise QuotaRefusedError(Bound("CgroupLimit", message, milli, FULL_NODE, in_force))
        self._milli = milli

    async def settled(self, milli: int, deadline: float) -> quota_state.Observed:  # noqa: ARG002
        return self.observe(None)
