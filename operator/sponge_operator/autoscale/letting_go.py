"""Letting go of a server: nobody applies a size to it from now on, so it follows its quota."""

from __future__ import annotations

from sponge_core.control_api import ReleaseRequest, StateSnapshot
from sponge_operator.autoscale.target import ResizableTarget
from sponge_operator.clients.server import ControlClient

__all__ = ["let_go", "release"]


async def let_go(target: ResizableTarget, control: ControlClient) -> None:
    """Releases a server whose state is not known. Raises ServerError."""
    snapshot = await control.state(target.control_url(), target.token, tls=target.tls)
    await release(target, control, snapshot)


async def release(target: ResizableTarget, control: ControlClient, snapshot: StateSnapshot) -> None:
    """Releases a server in the state `snapshot`. Raises ServerError, also if it has got another message since."""
    request = ReleaseRequest(version=snapshot.applied_version + 1)
    await control.release(target.control_url(), target.token, request, target.tls)
