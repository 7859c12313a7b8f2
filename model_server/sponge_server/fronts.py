"""What the server knows of the fronts before it: how far it has received the requests of each.

A front counts the requests that it sends to a pod. With the number that has arrived, a report of the pod's load tells
the front which of them it includes, and which are still on their way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["FRONT", "FrontNumbers"]

FRONT = b"x-sponge-front"
"""The header of a request that a front has sent: `NAME NUMBER`, the front's name and the request's number there."""

ATTEMPT = b"x-envoy-attempt-count"
"""A second attempt carries the number that the first pod knows."""

MOST_FRONTS = 32
"""Fronts whose numbers are remembered. One that starts anew has another name."""

SENDER = re.compile(rb"([0-9A-Za-z._-]{1,64}) ([0-9]{1,15})")


class FrontNumbers:
    """The highest number of each front among its requests that arrived here."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}

    def arrived(self, headers: Mapping[bytes, bytes]) -> None:
        """A request is here. One that no front has sent, or with a malformed header, is ignored."""
        sender = headers.get(FRONT)
        if sender is None or headers.get(ATTEMPT, b"1") != b"1":
            return
        found = SENDER.fullmatch(sender)
        if found is not None:
            name = found[1].decode()
            highest = max(int(found[2]), self._highest.pop(name, 0))
            if len(self._highest) >= MOST_FRONTS:
                del self._highest[next(iter(self._highest))]  # the one that has sent nothing for the longest time
            self._highest[name] = highest

    def read(self) -> dict[str, int]:
        """The highest numbers by front."""
        return dict(self._highest)
