"""Keeps the objects of a service's front, and removes them when the spec has none any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.reconcile.child import Build, Child, RefusedError, resync_at
from sponge_operator.reconcile.user_secrets import secret_obstacle
from sponge_operator.resources.front_manifests import KINDS, account_of, build_front, front_name
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.mounted_secrets import front_secrets
from sponge_operator.resources.obstacles import Obstacle
from sponge_operator.settings import OperatorSettings

__all__ = ["FrontKeeper"]

RETRY_S = 10.0
"""Before objects that could not be removed are tried again."""

TROUBLE_S = 10.0
"""Between two looks at a Secret of the user that cannot be used, or could not be read."""


class FrontKeeper:
    """The front of one service; call `keep` when `due_at` has come, or the service has changed.

    Attributes:
        obstacle: why the front is not as it should be; None if it is.
        secret_trouble: why fronts cannot use a Secret of the user; None if they can. Fronts that run go on.
    """

    def __init__(self, kube: Kube, service: SpongeService, settings: OperatorSettings) -> None:
        self._kube = kube
        self._settings = settings
        self._children = {kind: Child(kube, kind, front_name(service)) for kind in KINDS}
        self._generation = -1
        self._resync_at = self._retry_at = float("-inf")
        self._is_changed = False
        self._secrets_at = float("-inf")
        self.obstacle: Obstacle | None = None
        self.secret_trouble: Obstacle | None = None

    @property
    def deployment(self) -> Mapping[str, Any] | None:
        """The newest version of the Deployment of the fronts; None if there is none."""
        return self._children["Deployment"].present

    def due_at(self) -> float:
        """When `keep` should run next, on its clock, unless the service or an object of the front changes."""
        return float("-inf") if self._is_changed else min(self._resync_at, self._retry_at, self._secrets_at)

    def seen(self, kind: str, found: Mapping[str, Any] | None) -> None:
        """Takes over what a watch reports of an object with the front's label, which anybody may set; None: gone."""
        if kind in self._children:
            self._is_changed = self._children[kind].seen(found) or self._is_changed

    async def keep(self, service: SpongeService, now: float) -> None:
        """Does what is due."""
        if service.generation == self._generation and now < self.due_at():
            return
        is_edited = service.generation != self._generation
        self._generation, self._is_changed, self._retry_at = service.generation, False, float("inf")
        if now >= self._resync_at:
            self._resync_at = resync_at(now, self._settings.resync_s)
            for child in self._children.values():
                child.doubt()
        if is_edited or now >= self._secrets_at:
            await self._look_at_secrets(service, now)
        if service.spec.front is None:
            await self._remove(service, now)
            return
        for kind, child in self._children.items():
            await child.keep(service, self._building(kind, service), now)
        blocked = [child for child in self._children.values() if child.obstacle is not None]
        self.obstacle = blocked[0].obstacle if blocked else None
        self._retry_at = min((child.retry_at for child in blocked), default=float("inf"))

    async def _look_at_secrets(self, service: SpongeService, now: float) -> None:
        found = () if service.spec.front is None else front_secrets(service.spec).all
        try:
            self.secret_trouble = await secret_obstacle(self._kube, service, found)
        except ApiError:
            self._secrets_at = now + TROUBLE_S
            return
        self._secrets_at = self._resync_at if self.secret_trouble is None else now + TROUBLE_S

    async def _remove(self, service: SpongeService, now: float) -> None:
        """Deletes what there is and belongs to the service. Without the Deployment, which goes last, there is none."""
        self.obstacle = None
        deployment = self._children["Deployment"]
        try:
            await deployment.look(service)
            if deployment.present is None:
                return
            for kind, child in self._children.items():
                await child.look(service)
                if child.present is not None:
                    metadata = child.present["metadata"]
                    await self._kube.delete(kind, service.namespace, metadata["name"], uid=metadata["uid"])
                    child.forget()
        except ApiError as error:
            self.obstacle = Obstacle("ApplyFailed", f"the front {front_name(service)!r} cannot be removed: {error}")
            self._retry_at = now + RETRY_S

    def _building(self, kind: str, service: SpongeService) -> Build:
        settings = self._settings.front

        def build(_: Mapping[str, Any] | None) -> Mapping[str, Any]:
            if not settings.role:
                message = "fronts are off; install the chart with front.enabled=true, or remove front"
                raise RefusedError(Obstacle("FrontRefused", message))
            return build_front(kind, service, settings, self._account())

        return build

    def _account(self) -> str:
        """The uid of the ServiceAccount; while it is not there, the pods stay as they are."""
        account = self._children["ServiceAccount"].present
        return account_of(self.deployment) if account is None else str(account["metadata"]["uid"])
