"""The latency profile that a server plans with, as its log tells it at the end of the start."""

from __future__ import annotations

import re

from sponge_core.latency import LatencyModel
from sponge_demo.backend import DemoError

__all__ = ["profile_in"]

EVENT = "profile.taken"


def profile_in(log: str) -> LatencyModel:
    """The profile of the newest start in a server's log, in either log format.

    Raises:
        DemoError: the log does not tell it.
    """
    line = next((line for line in reversed(log.splitlines()) if EVENT in line), "")
    values = {name: float(value) for name, value in re.findall(r'\b(\w+)"?[=:]\s*(-?\d[\d.e+-]*)', line)}
    try:
        gamma, delta, epsilon, eta = (values[f"{name}_ms"] / 1000 for name in ("gamma", "delta", "epsilon", "eta"))
        return LatencyModel(gamma, delta, epsilon, eta, values["interference"], values["error"])
    except KeyError as missing:
        where = f"not in {line!r}" if line else f"no event {EVENT}"
        raise DemoError(f"the server's log does not tell {missing} of its latency profile: {where}") from None
