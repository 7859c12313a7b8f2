"""Checks an installation of the operator from inside the cluster; `helm test` runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import aiohttp

from sponge_core.addresses import authority
from sponge_core.errors import SpongeError
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.reconcile.preflight import Preflight

__all__ = ["check"]

PATIENCE_S = 30.0
"""For an operator that starts or is replaced just now."""

AGAIN_S = 1.0
ANSWER = aiohttp.ClientTimeout(total=5)


async def check(
    health: tuple[str, int], namespaces: Sequence[str], say: Callable[[str], None], patience_s: float = PATIENCE_S
) -> None:
    """Checks that the CRD is served, that the operator has its rights, and that it is healthy.

    Args:
        health: host and port of the operator's /healthz.
        namespaces: that the operator watches; empty for all.
        say: called with a line for each check that is passed.
        patience_s: how long the operator may take to become healthy.

    Raises:
        SpongeError: a check fails; the message says which, and what to do.
    """
    async with Kube() as kube:
        await kube.check_crd()
        say("the API server knows SpongeServices")
        try:
            missing = await Preflight(kube, namespaces, lambda: None).check()
        except ApiError as error:
            raise SpongeError(f"the API server does not tell the operator's rights: {error}") from None
        if missing is not None:
            raise SpongeError(missing[1])
        say("the operator has its rights")
    await healthy(authority(*health), patience_s)
    say("the operator is healthy")


async def healthy(address: str, patience_s: float) -> None:
    """Waits until /healthz at an address says so. Raises SpongeError with what it said last."""
    clock = asyncio.get_running_loop().time
    until = clock() + patience_s
    async with aiohttp.ClientSession(timeout=ANSWER) as session:
        while True:
            try:
                async with session.get(f"http://{address}/healthz") as answer:
                    said = (await answer.text()).strip()
                    if answer.status == 200:
                        return
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                said = str(error) or type(error).__name__
            if clock() >= until:
                raise SpongeError(f"the operator at {address} is not healthy: {said}; look at its log")
            await asyncio.sleep(AGAIN_S)
