"""Keeps one child of a SpongeService: applies it when it should differ, and waits longer after each failure."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.obstacles import Obstacle
from sponge_operator.resources.ownership import obstacle_to_apply

__all__ = ["Build", "Child", "RefusedError", "resync_at"]

log = logging.getLogger("sponge.operator")

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 120.0
LAST_LOOK_S = 30.0
"""Between two looks at an object that is not ours; looking is one read."""

Build = Callable[[Mapping[str, Any] | None], Mapping[str, Any]]
"""The manifest, given the present object or None. Raises RefusedError if there must be none."""


def resync_at(now: float, resync_s: float) -> float:
    """When to look again at objects that are as they should be.

    Spread over time, as all services of a cluster are found at once when the operator starts.
    """
    return now + resync_s * random.uniform(0.5, 1.5)


class RefusedError(Exception):
    """The operator itself refuses to apply the object."""

    def __init__(self, obstacle: Obstacle) -> None:
        super().__init__(obstacle.message)
        self.obstacle = obstacle


class Child:
    """One child.

    Attributes:
        present: the newest version of it that is known, if it is this service's; None if there is none.
        obstacle: why it is not as it should be; None if it is.
        retry_at: when to try again after a failure; on the clock of `keep`.
        is_current: it was applied as the newest spec has it, as far as is known.
    """

    def __init__(self, kube: Kube, kind: str, name: str) -> None:
        self._kube = kube
        self._kind = kind
        self._name = name
        self._applied: tuple[str, str] | None = None  # digest of the manifest, version of the object
        self._is_verified = False
        self._failures = 0
        self._generation = -1
        self.present: Mapping[str, Any] | None = None
        self.obstacle: Obstacle | None = None
        self.retry_at = float("-inf")
        self.is_current = False

    def doubt(self) -> None:
        """The next `keep` looks at the object itself."""
        self._is_verified = False

    def forget(self) -> None:
        """The object has been deleted."""
        self.present, self.obstacle, self._applied = None, None, None
        self.doubt()

    def seen(self, found: Mapping[str, Any] | None) -> bool:
        """Takes over what a watch reports; None: it is gone. Returns whether `keep` should run."""
        if found is None or self.present is None or found["metadata"]["uid"] != self.present["metadata"]["uid"]:
            self.doubt()
            return True
        if _resource_version(found) >= _resource_version(self.present):
            self.present = found
            if self._applied is None or self._applied[1] != self._version(found):
                self.doubt()
        return not self._is_verified

    async def keep(self, service: SpongeService, build: Build, now: float) -> None:
        """Applies the manifest unless the object has it already, or a failure is too recent.

        An edit of the service is tried at once.
        """
        is_edited = service.generation != self._generation
        if now < self.retry_at and not is_edited:
            return
        self._generation = service.generation
        if is_edited:
            self._failures = 0
        try:
            self.obstacle = await self._keep(service, build)
        except ApiError as error:
            self.obstacle = _refused(self._kind, self._name, error)
        except RefusedError as refusal:
            self.obstacle = refusal.obstacle
        except Exception as error:
            log.exception("child.failed kind=%s name=%s", self._kind, self._name)
            self.obstacle = Obstacle("InternalError", f"{self._kind} {self._name!r}: {error!r}")
        if self.obstacle is None:
            self._failures, self.retry_at = 0, float("-inf")
            return
        most = LAST_LOOK_S if self.obstacle.reason in _NOT_OURS else LAST_RETRY_S
        wait = min(most, FIRST_RETRY_S * 2**self._failures)
        self.retry_at = now + wait * random.uniform(0.75, 1.25)  # not all services of a cluster at once
        self._failures += 1

    async def look(self, service: SpongeService) -> None:
        """Finds the object without changing it. Raises ApiError."""
        found = await self._kube.get(self._kind, service.namespace, self._name)
        self.present = None if found is None or obstacle_to_apply(self._kind, found, service) is not None else found

    async def _keep(self, service: SpongeService, build: Build) -> Obstacle | None:
        applied = None if self.present is None else self._applied
        self.is_current = False  # unless the manifest can be built
        self.is_current = applied is not None and _digest(build(self.present)) == applied[0]
        if self.is_current and self._is_verified:
            return None
        present = await self._kube.get(self._kind, service.namespace, self._name)
        obstacle = None if present is None else obstacle_to_apply(self._kind, present, service)
        if present is None or obstacle is not None:
            self.present, self.is_current = None, False
            if obstacle is not None:
                return obstacle
        else:
            self.present = present
        manifest = build(present)
        digest = _digest(manifest)
        if present is None or self._applied != (digest, self._version(present)):
            # The uid makes the API server refuse the patch if another object has taken the name meanwhile.
            uid = {} if present is None else {"uid": present["metadata"]["uid"]}
            made = await self._kube.apply({**manifest, "metadata": {**manifest["metadata"], **uid}})
            if self.present is None or _resource_version(made) >= _resource_version(self.present):
                self.present = made
            self._applied = digest, self._version(made)
        self._is_verified = self.present is not None and self._applied[1] == self._version(self.present)
        self.is_current = True
        return None

    def _version(self, found: Mapping[str, Any]) -> str:
        # Each change of a status is a new version of the object, but not a new generation.
        return str(found["metadata"]["generation" if self._kind in _WITH_STATUS else "resourceVersion"])


_WITH_STATUS = ("Deployment", "PodDisruptionBudget")
_NOT_OURS = ("NameTaken", "ChildLeaving")


def _refused(kind: str, name: str, error: ApiError) -> Obstacle:
    causes = (error.body.get("details") or {}).get("causes") or ()
    if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return Obstacle("NamespaceTerminating", str(error))
    return Obstacle("ApplyFailed", f"{kind} {name!r}: {error}")


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _resource_version(found: Mapping[str, Any]) -> int:
    return int(found["metadata"]["resourceVersion"])
