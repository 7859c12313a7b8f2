"""Posts Kubernetes events about SpongeServices, in order and without making anybody wait."""

from __future__ import annotations

import asyncio
import datetime
import logging
import socket
from collections.abc import Mapping
from typing import Any

from sponge_core.resource_names import GROUP, KIND, VERSION
from sponge_operator.clients.kube import ApiError, Kube
from sponge_system.logs import event

__all__ = ["EventPoster"]

log = logging.getLogger("sponge.operator")

LONGEST_MESSAGE = 1024
"""Characters, by the API's rules."""

MOST_WAITING = 1000
"""Events; while the API server does not answer, later ones are dropped."""


class EventPoster:
    """Takes events at once; `run` sends them."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MOST_WAITING)
        self._instance = socket.gethostname()

    def post(self, body: Mapping[str, Any], kind: str, reason: str, message: str) -> None:
        """Takes an event about a SpongeService; `kind` is Normal or Warning."""
        metadata = body["metadata"]
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        manifest = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "sponge-", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message[:LONGEST_MESSAGE],
            "action": reason,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "reportingComponent": "sponge-operator",
            "reportingInstance": self._instance,
            "source": {"component": "sponge-operator"},
        }
        if self._waiting.full():
            event(log, "event.dropped", logging.WARNING, reason=reason)
            return
        self._waiting.put_nowait(manifest)

    async def run(self) -> None:
        """Never returns."""
        while True:
            manifest = await self._waiting.get()
            try:
                await self._kube.create(manifest)
            except ApiError as error:
                # An event in a namespace that is going away, most often; it says nothing that the status does not.
                event(log, "event.refused", logging.DEBUG, reason=manifest["reason"], message=error)
