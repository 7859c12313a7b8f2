"""Which objects belong to a SpongeService: those whose controller it is. Pure.

Nothing else is changed or deleted, whatever its name or labels. The one exception is an orphan: an object without any
controller that carries the labels of this service, as `kubectl delete --cascade=orphan` leaves it. A service that is
created again under the same name adopts it. What still names a former service of that name as its controller is left
to the garbage collector, which removes it or makes an orphan of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sponge_core.resource_names import GROUP, KIND
from sponge_operator.resources.front_manifests import FRONT_LABEL
from sponge_operator.resources.manifest_parts import MANAGED_BY, MANAGED_BY_LABEL
from sponge_operator.resources.manifests import SERVICE_LABEL
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.obstacles import Obstacle

__all__ = ["controller_of", "obstacle_to_apply"]


def controller_of(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference of an object's controller; None if it has none."""
    references = found["metadata"].get("ownerReferences") or ()
    return next((reference for reference in references if reference.get("controller")), None)


def obstacle_to_apply(kind: str, found: Mapping[str, Any], service: SpongeService) -> Obstacle | None:
    """Why the operator must not apply its own object over `found`; None if that is its own, or an orphan."""
    name, controller = found["metadata"]["name"], controller_of(found)
    if controller is not None and controller.get("uid") == service.uid:
        if found["metadata"].get("deletionTimestamp"):
            return Obstacle("ChildLeaving", f"{kind} {name!r} is being deleted; it is made again when it has gone")
        return None
    if controller is None and _is_labelled(found, service):
        return None
    if controller is not None and _is_predecessor(controller, service):
        message = f"{kind} {name!r} belongs to a deleted SpongeService of this name; it is collected in a moment"
        return Obstacle("ChildLeaving", message)
    owner = "nobody" if controller is None else f"{controller.get('kind')} {controller.get('name')!r}"
    return Obstacle(
        "NameTaken",
        f"{kind} {name!r} exists and is not this service's (its controller is {owner}), so it is left alone; "
        f"delete or rename it, or give the SpongeService another name",
    )


def _is_labelled(found: Mapping[str, Any], service: SpongeService) -> bool:
    labels = found["metadata"].get("labels") or {}
    return (
        service.name in (labels.get(SERVICE_LABEL), labels.get(FRONT_LABEL))
        and labels.get(MANAGED_BY_LABEL) == MANAGED_BY
        and not found["metadata"].get("deletionTimestamp")
    )


def _is_predecessor(controller: Mapping[str, Any], service: SpongeService) -> bool:
    group = str(controller.get("apiVersion", "")).partition("/")[0]
    return (group, controller.get("kind"), controller.get("name")) == (GROUP, KIND, service.name)
