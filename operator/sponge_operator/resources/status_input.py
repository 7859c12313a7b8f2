"""Everything that the status of a SpongeService is built from. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sponge_operator.autoscale.pod_state import PodState
from sponge_operator.autoscale.replica_scaler import Scaling
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.obstacles import Obstacle

__all__ = ["FULL_NODE", "LastScaling", "StatusInput"]

FULL_NODE = ("Deferred", "Infeasible", "NodeCapacity", "NodeShared")
"""Reasons of a blocked resize that another node would not have."""


@dataclass(frozen=True, slots=True)
class LastScaling:
    """A change of the number of pods; `time` is epoch seconds."""

    time: float
    before: int
    after: int
    reason: str


@dataclass(frozen=True, slots=True)
class StatusInput:
    """Everything that a status is built from.

    Attributes:
        pods: states of the pods that are not on their way out, by name.
        deployment: as the API server sent it last; None if there is none.
        attainment: percent of requests in time; None without requests.
        trouble: what went wrong when the spec was carried out; None if nothing did.
        is_current: every child was applied as the newest spec has it.
        missing_profile: message about a profile reference to something that does not exist.
        secret_trouble: why pods cannot use a Secret of the user that they mount; None if they can.
        conflict: message about another autoscaler of the same pods.
        scaling: the newest look at the number of pods; None where it does not follow the load now.
        last_scaling: the newest change of that number; None since the operator started.
        now: epoch seconds.
        unable: reason and message if the cluster lets the operator change no size, else None.
        source_change: how far a change of the model's source in place has come, or what keeps it; None without one.
        front: the Deployment of the fronts, as the API server sent it last; None if there is none.
        front_trouble: why the front is not as the spec has it; None if it is.
        front_secret_trouble: why fronts cannot use a Secret of the user that they mount; None if they can.
    """

    service: SpongeService
    pods: Sequence[PodState]
    deployment: Mapping[str, Any] | None
    attainment: float | None
    trouble: Obstacle | None
    is_current: bool
    missing_profile: str | None
    secret_trouble: Obstacle | None
    conflict: str | None
    now: float
    unable: tuple[str, str] | None = None
    scaling: Scaling | None = None
    last_scaling: LastScaling | None = None
    source_change: Obstacle | None = None
    front: Mapping[str, Any] | None = None
    front_trouble: Obstacle | None = None
    front_secret_trouble: Obstacle | None = None

    @property
    def wanted(self) -> int:
        """The number of pods that are requested."""
        replicas = self.service.spec.replicas
        if replicas.is_fixed or self.deployment is None:
            return replicas.at_first
        return int(self.deployment["spec"].get("replicas", 1))

    @property
    def full_nodes(self) -> Mapping[str, PodState]:
        """A pod for each node on which pods cannot have their size for lack of room, by the node's name."""
        return {
            state.node: state for state in self.pods if state.blocked is not None and state.blocked.reason in FULL_NODE
        }
