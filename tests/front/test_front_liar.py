"""Pods that do not do what they report, behind the real picker and Envoy: fewer requests meet them than by turns."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import aiohttp
import pytest
from fake_pod import SLO_MS, FakePod
from fake_pod_front import front_before, named

pytestmark = pytest.mark.slow

PATIENCE_S = 1.0
"""After so long a client gives up."""


async def ask(session: aiohttp.ClientSession, url: str) -> int:
    """The status of one request; 0 when there was no answer in time."""
    try:
        async with session.post(url, json={}, headers={"x-sponge-slo-ms": str(SLO_MS)}) as answer:
            return answer.status
    except TimeoutError:
        return 0


async def missed(session: aiohttp.ClientSession, url: str, count: int) -> int:
    """Of so many requests, one after the other, those that are not answered well."""
    return sum([await ask(session, url) != 200 for _ in range(count)])


@pytest.mark.parametrize("kind", ["silent", "failing"])
async def test_a_pod_that_lies_is_avoided(tmp_path: Path, kind: Literal["silent", "failing"]) -> None:
    honest, liar = FakePod("honest"), FakePod(kind)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with honest.running() as first, liar.running() as second, aiohttp.ClientSession(timeout=timeout) as session:
        async with front_before([named(first), named(second)], tmp_path) as front:
            url = f"http://127.0.0.1:{front.http}/v2/models/m/infer"
            by_rule = await missed(session, url, 16)
            assert liar.asked >= 1, "before it was known, it was trusted"
            async with asyncio.timeout(60):
                while await missed(session, url, 30):
                    pass
            front.picker.kill()
            # From now on the pods take turns.
            by_turns = await missed(session, url, 16)
        assert 2 * by_rule <= by_turns
