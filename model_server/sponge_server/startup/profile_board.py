"""What the control port tells about the latency profile, and what it asks for while one is measured.

A server cannot change its own CPU limit. While it measures, it says which limit it would measure under next; an
operator that reads the board may grant it. It also keeps the measured profile for the pods to come.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from sponge_core.control_api import ProfileReport
from sponge_core.errors import ProfileError
from sponge_profiles.profile import Profile
from sponge_profiles.timing import cpu_type
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_system.logs import event

__all__ = ["ProfileBoard", "stored_profile"]

log = logging.getLogger(__name__)

READER_S = 3.0
"""Somebody who read the board within this time may grant a limit."""

GRANT_S = 3.0
"""How long a measurement waits for a larger limit. An operator looks twice a second, a resize takes less than one."""

POLL_S = 0.02


class ProfileBoard:
    """The report, as it is now. `clock`: monotonic seconds; `source`: of the model."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, source: str | None = None) -> None:
        self._report = ProfileReport(origin="unknown", cpu_type=cpu_type(), source=source)
        self._clock = clock
        self._read_at = -math.inf

    def read(self) -> ProfileReport:
        """The report for a reader."""
        self._read_at = self._clock()
        return self._report

    def take_over(self, other: ProfileBoard) -> None:
        """Shows what another board says: another version of the model serves."""
        self._report = other._report

    def measuring(self) -> None:
        self._report = self._report.model_copy(update={"origin": "measuring"})

    def known(self, profile: Profile, *, origin: str, noisy: bool = False) -> None:
        """The profile is known. Its text is shown unless it was given from outside, or measured beside much noise."""
        text = None if origin == "given" or noisy else profile.to_yaml()
        self._report = self._report.model_copy(update={"origin": origin, "profile": text, "wants_milli": None})

    async def grown(self, cores: int, quota: CpuQuota) -> bool:
        """Asks for a CPU limit of so many cores; whether it is in force. Nobody is asked where nobody reads."""
        if self._clock() - self._read_at > READER_S:
            return False
        self._report = self._report.model_copy(update={"wants_milli": 1000 * cores})
        until = self._clock() + GRANT_S
        try:
            while self._clock() < until:
                quota.poll()
                if quota.quota_milli is None or quota.quota_milli >= 1000 * cores:
                    return True
                await asyncio.sleep(POLL_S)
        finally:
            self._report = self._report.model_copy(update={"wants_milli": None})
        event(log, "profile.limit_not_granted", cores=cores)
        return False


def stored_profile(prefix: Path | None, model: str, max_batch: int) -> Profile | None:
    """The profile of an earlier start on a CPU of this type; None if there is none that covers the model's batches."""
    if prefix is None:
        return None
    path = prefix.with_name(f"{prefix.name}-{cpu_type()}.yaml")
    try:
        profile = Profile.from_yaml(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError, ProfileError) as error:
        if not isinstance(error, FileNotFoundError):
            event(log, "profile.unusable", logging.WARNING, file=path, error=error)
        return None
    return profile if profile.model == model and profile.max_batch >= max_batch else None
