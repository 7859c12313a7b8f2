"""A front of the real picker and Envoy before two made-up pods, which have no gRPC port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.live_front import LiveFront

from sponge_cluster.layout import free_port

__all__ = ["RestFront", "front_before", "named"]


def named(port: int, host: str = "127.0.0.1") -> str:
    """As the command line names such a pod, which has no gRPC port."""
    return f"{host},{port},{free_port()},{port}"


class RestFront(LiveFront):
    """A front whose pods have no gRPC port."""

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError, KeyError):
            reporting = self.metric("sponge_front_pods_reporting")
            return (reporting, self.healthy("pods-http"), self.healthy("picker")) == (2, 2, 1)
        return False


@asynccontextmanager
async def front_before(pods: list[str], directory: Path) -> AsyncIterator[RestFront]:
    """Context of a front before two pods, as `named` names them; `directory`: for the token."""
    (directory / "token").write_text("secret")
    front = RestFront(pods, directory / "token", pick_timeout_ms=1000)
    await asyncio.to_thread(front.__enter__)
    try:
        yield front
    finally:
        await asyncio.to_thread(front.__exit__)
