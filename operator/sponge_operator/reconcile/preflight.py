"""Checks whether the cluster lets the operator do its work: at start, and slowly again.

Without it, a missing right or an old API server would show only at the first resize, pod by pod.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sponge_core.resource_names import GROUP, PLURAL
from sponge_operator.autoscale.ceiling import NO_RESIZE_API
from sponge_operator.clients.kube import ApiError, Kube
from sponge_system.logs import event

__all__ = ["RIGHTS", "Preflight", "Right"]

log = logging.getLogger("sponge.operator")

RECHECK_S = 30.0
"""Between two checks while something is missing."""

CONFIRM_S = 600.0
"""The same while nothing is."""


@dataclass(frozen=True, slots=True)
class Right:
    """What the operator must be allowed to do.

    Attributes:
        resource: with its subresource, such as "pods/resize".
        group: its API group; empty for the core.
        drives: without it, no size changes.
    """

    verb: str
    resource: str
    group: str = ""
    drives: bool = False

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


RIGHTS = (
    Right("patch", "pods/resize", drives=True),
    Right("list", "pods", drives=True),
    Right("watch", "pods", drives=True),
    Right("list", PLURAL, GROUP),
    Right("watch", PLURAL, GROUP),
    Right("patch", f"{PLURAL}/status", GROUP),
    Right("watch", "deployments", "apps"),
    Right("create", "deployments", "apps"),
    Right("patch", "deployments", "apps"),
    Right("create", "services"),
    Right("patch", "services"),
    Right("create", "events"),
)
"""Those that the chart grants for all names."""


class Preflight:
    """The checks; `run` until cancelled.

    Args:
        namespaces: that are watched; empty for all.
        on_change: called when `problem` has changed.
    """

    def __init__(self, kube: Kube, namespaces: Sequence[str], on_change: Callable[[], None]) -> None:
        self._kube = kube
        self._namespaces = tuple(namespaces) or ("",)
        self._on_change = on_change
        self._said: tuple[str, str] | None = None
        self.problem: tuple[str, str] | None = None
        """Reason and message, if no size can change."""

    async def run(self) -> None:
        """Never returns."""
        while True:
            try:
                await self.check()
            except ApiError as error:
                event(log, "preflight.unanswered", logging.WARNING, status=error.status, message=error)
                await asyncio.sleep(RECHECK_S)
                continue
            await asyncio.sleep(CONFIRM_S if self._said is None else RECHECK_S)

    async def check(self) -> tuple[str, str] | None:
        """Checks once, logs what has changed, and returns reason and message of what is missing.

        Raises:
            ApiError: the API server does not answer.
        """
        found = await self._find()
        if found != self._said:
            if found is not None:
                event(log, "preflight.failed", logging.ERROR, reason=found[0], message=found[1])
            else:
                event(log, "preflight.passed")
            self._said = found
        return found

    async def _find(self) -> tuple[str, str] | None:
        if "pods/resize" not in await self._kube.core_resources():
            found: tuple[str, str] | None = ("NoResizeApi", NO_RESIZE_API)
            self._set(found)
            return found
        lacking = {
            namespace: [right for right in RIGHTS if not await self._may(right, namespace)]
            for namespace in self._namespaces
        }
        self._set(_problem({where: [right for right in rights if right.drives] for where, rights in lacking.items()}))
        return _problem(lacking)

    async def _may(self, right: Right, namespace: str) -> bool:
        return await self._kube.may(right.verb, right.resource, right.group, namespace)

    def _set(self, problem: tuple[str, str] | None) -> None:
        if problem != self.problem:
            self.problem = problem
            self._on_change()


def _problem(lacking: dict[str, list[Right]]) -> tuple[str, str] | None:
    parts = [
        f"{', '.join(map(str, rights))} in {f'namespace {where}' if where else 'all namespaces'}"
        for where, rights in lacking.items()
        if rights
    ]
    if not parts:
        return None
    fix = "install the Helm chart again, or grant it to the operator's ServiceAccount"
    return "MissingRights", f"the operator may not {'; nor '.join(parts)}; {fix}"
