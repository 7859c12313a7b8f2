"""Reads the load of one pod from its control port, for as long as the pod is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
from aiohttp.http_exceptions import LineTooLong

from sponge_core.errors import SpongeError
from sponge_core.routing.pod_load import PodLoad
from sponge_front.pods import Pod
from sponge_front.pods_trust import PodsTrust
from sponge_system.logs import event

__all__ = ["SILENCE_S", "LoadReader", "read_token"]

log = logging.getLogger(__name__)

SILENCE_S = 3.0
"""A pod reports every second at least; one that is silent for so long is asked anew."""

FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 2.0
"""Before a pod that is not reached is asked again; doubles with each time."""


def read_token(path: Path) -> str:
    """The token of the control ports. Raises SpongeError."""
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SpongeError(f"--token-file {path}: {error}; name the file with the servers' control token") from None
    if not token:
        raise SpongeError(f"--token-file {path}: the file is empty; write the servers' control token into it")
    return token


class LoadReader:
    """Reads the reports of pods.

    Args:
        token_file: holds the token; read for each connection, as it may change.
        reported: hears of each report.
        trust: in control ports with TLS; None: they speak plain text.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        token_file: Path,
        reported: Callable[[str, PodLoad], None],
        trust: PodsTrust | None = None,
    ) -> None:
        self._session = session
        self._token_file = token_file
        self._reported = reported
        self._trust = trust

    async def follow(self, pod: Pod) -> None:
        """Reads until cancelled, whatever the pod does."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async for load in self._reports(pod):
                    self._reported(pod.name, load)
                    pause_s = FIRST_PAUSE_S
                why = "the report ended"
            except (aiohttp.ClientError, LineTooLong, TimeoutError, OSError, ValueError, SpongeError) as error:
                why = str(error) or type(error).__name__
            event(log, "load.lost", logging.WARNING, pod=pod.name, reason=why)
            await asyncio.sleep(pause_s)
            pause_s = min(LAST_PAUSE_S, 2 * pause_s)

    async def _reports(self, pod: Pod) -> AsyncIterator[PodLoad]:
        headers = {"authorization": f"Bearer {read_token(self._token_file)}"}
        tls = None if self._trust is None else self._trust.context
        url = f"{'http' if self._trust is None else 'https'}://{pod.control}/control/v1/load"
        timeout = aiohttp.ClientTimeout(sock_connect=SILENCE_S, sock_read=SILENCE_S)
        async with self._session.get(
            url, headers=headers, timeout=timeout, ssl=tls or True, raise_for_status=True
        ) as response:
            async for line in response.content:
                yield PodLoad.model_validate_json(line)
