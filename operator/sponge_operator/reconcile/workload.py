"""The children of a SpongeService, each kept on its own, so that one that cannot be applied stops no other."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sponge_operator.autoscale.pod_state import PodState
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.tokens import Tokens
from sponge_operator.clients.trust import Trust
from sponge_operator.reconcile.child import Child, RefusedError, resync_at
from sponge_operator.reconcile.user_secrets import secret_obstacle
from sponge_operator.resources.manifests import (
    build_config_map,
    build_deployment,
    build_secret,
    build_service,
    config_map_name,
    secret_name,
    startup_milli,
    template_hash,
    token_of,
)
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.mounted_secrets import mounted_secrets
from sponge_operator.resources.obstacles import Obstacle
from sponge_operator.resources.pod_security import added_violations
from sponge_operator.resources.source_entries import sources_of
from sponge_operator.resources.source_plan import SourcePlan, plan_source, rollout_now
from sponge_operator.settings import OperatorSettings

__all__ = ["Workload"]

MISSING_S = 10.0
"""Between two looks for a Secret or ConfigMap of the user that does not exist yet."""

SILENT_S = 30.0
"""How long a change of the source waits for a server that does not answer, before the pods are replaced."""

TOKEN = re.compile(r"[!-~]{1,4096}")
"""What a header can carry."""


class Workload:
    """Deployment, Service, Secret and ConfigMap of one service; call `keep` when `due_at` has come.

    Args:
        service: gives the names; `keep` gets the newest version.
        tokens: learn the token of the servers' control ports.
        trust: learns their certificate.

    Attributes:
        tokens: those of the servers' control ports.
        missing_profile: message about a profile reference to something that does not exist; None if there is none.
        secret_trouble: likewise why pods cannot use a Secret with a certificate or API keys.
        plan: how the model's source reaches the pods, as of the last `keep`; None before.
    """

    def __init__(
        self, kube: Kube, service: SpongeService, settings: OperatorSettings, tokens: Tokens, trust: Trust
    ) -> None:
        self._kube = kube
        self._settings = settings
        self.tokens = tokens
        self._trust = trust
        names = {
            "Secret": secret_name(service),
            "ConfigMap": config_map_name(service),
            "Deployment": service.name,
            "Service": service.name,
        }
        self._children = {kind: Child(kube, kind, name) for kind, name in names.items()}
        self._generation = -1
        self._resync_at = float("-inf")
        self._references_at = float("-inf")
        self._is_over = False
        self._is_changed = False
        self._wanted: int | None = None
        self._was_held = False
        self.missing_profile: str | None = None
        self.secret_trouble: Obstacle | None = None
        self.plan: SourcePlan | None = None
        self._silent_since: float | None = None

    @property
    def deployment(self) -> Mapping[str, Any] | None:
        """The newest version of the service's Deployment; None if there is none."""
        return self._children["Deployment"].present

    @property
    def obstacle(self) -> Obstacle | None:
        """Why a child is not as it should be; None if all are."""
        return next((child.obstacle for child in self._children.values() if child.obstacle is not None), None)

    @property
    def is_current(self) -> bool:
        """Whether every child was applied as the newest spec has it."""
        return all(child.is_current for child in self._children.values())

    def scale(self, replicas: int) -> None:
        """Another number of pods is wanted; the next `keep` applies it, within the range of the spec."""
        self._wanted, self._is_changed = replicas, True

    def due_at(self) -> float:
        """When `keep` should run next, on its clock, unless the service or a child changes."""
        if self._is_over:
            return float("inf")
        if self._is_changed:
            return float("-inf")
        retries = [child.retry_at for child in self._children.values() if child.obstacle is not None]
        silent = [] if self._silent_since is None else [self._silent_since + SILENT_S]
        return min(self._resync_at, self._references_at, *retries, *silent)

    def seen(self, kind: str, found: Mapping[str, Any] | None) -> None:
        """Takes over what a watch reports of an object with the service's label, which anybody may set; None: gone."""
        if kind in self._children:
            self._is_changed = self._children[kind].seen(found) or self._is_changed

    async def keep(
        self, service: SpongeService, now: float, pods: Sequence[PodState] = (), *, held: bool = False
    ) -> None:
        """Does what is due.

        Args:
            pods: the service's pods that are not on their way out.
            held: another autoscaler sets the number of pods; it is left as it is.
        """
        is_edited = service.generation != self._generation
        is_due = is_edited or self._is_changed or held != self._was_held or now >= self.due_at()
        if self._is_over or not (is_due or self._planned(service, now, pods) != self.plan):
            return
        self._generation, self._is_changed, self._was_held = service.generation, False, held
        if is_edited:
            self._children["Secret"].doubt()  # no watch reports its changes
        if now >= self._resync_at:
            self._resync_at = resync_at(now, self._settings.resync_s)
            for child in self._children.values():
                child.doubt()
        await self._keep_children(service, now, pods, held)
        if is_edited or now >= self._references_at:
            await self._check_references(service, now)

    async def _keep_children(self, service: SpongeService, now: float, pods: Sequence[PodState], held: bool) -> None:
        secret, config_map, deployment = (self._children[kind] for kind in ("Secret", "ConfigMap", "Deployment"))

        def build_token(present: Mapping[str, Any] | None) -> Mapping[str, Any]:
            # A lost Secret comes back with the token that the servers know.
            token = _token(present) or next(iter(self.tokens.known), None) or secrets.token_urlsafe(32)
            self.tokens.learn(token)
            return build_secret(service, token)

        def build_pods(present: Mapping[str, Any] | None) -> Mapping[str, Any]:
            startup, key = startup_milli(service.spec, present), self._planned(service, now, pods).key
            made = self._pods_of(service, startup, key, self._number(service, present, held))
            self._check_template(service, startup, key, made)
            return made

        def build_range(_: Mapping[str, Any] | None) -> Mapping[str, Any]:
            sources = self._planned(service, now, pods).sources
            return build_config_map(service, startup_milli(service.spec, deployment.present), sources)

        for known in (deployment, config_map):
            if known.present is None and known.obstacle is None:
                with contextlib.suppress(ApiError):
                    await known.look(service)  # size and source at startup are kept; pods are driven in any case
        await secret.keep(service, build_token, now)
        await config_map.keep(service, build_range, now)
        self.plan = self._planned(service, now, pods)
        # Pods of ours must not mount what is not ours, nor name a source that is not there.
        is_whole = all(child.obstacle is None or child.present is not None for child in (secret, config_map))
        if is_whole and self.plan.key in sources_of(config_map.present):
            await deployment.keep(service, build_pods, now)
            if deployment.obstacle is None:
                self._wanted = None
        self._silent_since = self._silent_from(self.plan, now)
        await self._children["Service"].keep(service, lambda _: build_service(service), now)
        self._is_over = any(
            child.obstacle is not None and child.obstacle.reason == "NamespaceTerminating"
            for child in self._children.values()
        )

    def _number(self, service: SpongeService, present: Mapping[str, Any] | None, held: bool) -> int:
        """The number of pods: the one that is wanted, else the present one, within the range."""
        has = None if present is None else present["spec"].get("replicas", 1)
        if held and has is not None:
            return int(has)
        wanted = has if self._wanted is None else self._wanted
        return service.spec.replicas.within(service.spec.replicas.at_first if wanted is None else wanted)

    def _planned(self, service: SpongeService, now: float, pods: Sequence[PodState]) -> SourcePlan:
        deployment = self._children["Deployment"].present

        def template(key: str) -> str:
            made = self._pods_of(service, startup_milli(service.spec, deployment), key)
            return template_hash(made["spec"]["template"])

        is_patient = self._silent_since is None or now < self._silent_since + SILENT_S
        rollout = rollout_now(deployment, self._children["ConfigMap"].present)
        return plan_source(service, rollout, pods, template, patient=is_patient)

    def _silent_from(self, plan: SourcePlan, now: float) -> float | None:
        """Since when a change has waited for a server that does not answer."""
        if plan.change is None or plan.change.reason != "SourceUnknown":
            return None
        return now if self._silent_since is None else self._silent_since

    def _pods_of(
        self, service: SpongeService, startup: int, source_key: str, replicas: int | None = None
    ) -> dict[str, Any]:
        image, template = self._settings.server_image, self._settings.server_template
        return build_deployment(service, startup, image, template, source_key, replicas)

    def _check_template(self, service: SpongeService, startup: int, source_key: str, made: Mapping[str, Any]) -> None:
        """Raises RefusedError if the service's template asks for more than the operator may hand out."""
        level = self._settings.template_security
        trusted = self._pods_of(service.without_template(), startup, source_key)
        found = added_violations(made["spec"]["template"], trusted["spec"]["template"], level)
        if found:
            listed = "; ".join(str(one) for one in found)
            message = f"spec.template breaks the Pod Security level {level}: {listed}"
            raise RefusedError(
                Obstacle(
                    "ViolatesPodSecurity", f"{message}; change it, or allow more by the chart's server.templateSecurity"
                )
            )

    async def _check_references(self, service: SpongeService, now: float) -> None:
        try:
            await self._learn_certificate(service)
            self.missing_profile = await _missing_profile(self._kube, service)
            self.secret_trouble = await secret_obstacle(self._kube, service, mounted_secrets(service.spec))
        except ApiError:
            self._references_at = now + MISSING_S
            return
        is_missing = self.missing_profile is not None or self.secret_trouble is not None
        self._references_at = now + MISSING_S if is_missing else self._resync_at

    async def learn_access(self, service: SpongeService) -> None:
        """Reads what connections to the servers need: token and, if they have one, certificate. Raises ApiError.

        Where the token has gone, `keep` is due, which makes another.
        """
        secret = self._children["Secret"]
        await secret.look(service)
        if token := _token(secret.present):
            self.tokens.learn(token)
        else:
            secret.doubt()
            self._is_changed = True
        await self._learn_certificate(service)

    async def _learn_certificate(self, service: SpongeService) -> None:
        if service.spec.tls is not None:
            self._trust.learn(await self._kube.get("Secret", service.namespace, service.spec.tls.secret_name))


def _token(secret: Mapping[str, Any] | None) -> str | None:
    """The token in the Secret, whoever has written it; None where there is none that can be used."""
    try:
        token = "" if secret is None else token_of(secret).strip()
    except (KeyError, TypeError, ValueError):
        return None
    return token if TOKEN.fullmatch(token) else None


async def _missing_profile(kube: Kube, service: SpongeService) -> str | None:
    reference = service.spec.profile.config_map
    if reference is None:
        return None
    config_map = await kube.get("ConfigMap", service.namespace, reference.name)
    if config_map is None:
        return f"ConfigMap {reference.name!r} does not exist; create it or change profile.configMap"
    if reference.key not in (config_map.get("data") or {}):
        return f"ConfigMap {reference.name!r} has no key {reference.key!r}; add it or set profile.configMap.key"
    return None
