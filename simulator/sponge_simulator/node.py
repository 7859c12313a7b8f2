"""Several services on one node, in virtual time: each with a queue and a policy of its own, all from the same cores.

Drives one run for each service and tells it how much of the node is left; knows nothing of how a service runs. The
shipped nodes lie in `nodes/`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sponge_core.edf_queue import Request
from sponge_profiles.profile import load_profile
from sponge_simulator.fleet import ClusterModel, ServiceRun, SimulationResult
from sponge_simulator.scaling.interface import ScalingPolicy
from sponge_simulator.scaling.registry import make_policy
from sponge_simulator.scaling.shared_node import SharedNode
from sponge_simulator.scenario import Scenario, load_scenario

__all__ = ["JOINTLY", "Node", "load_node", "run_node"]

JOINTLY = "sponge-jointly"
"""Not in the registry of policies: it decides about a node, not about a service."""


class Node(BaseModel):
    """Services on one node, all for the same time.

    Attributes:
        cores: what the containers of all services together can have.
        services: each a shipped scenario by name, with what is changed of it, or one in full.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    about: str
    cores: float = Field(gt=0)
    duration_s: float = Field(gt=0)
    services: tuple[Scenario, ...] = Field(min_length=1)

    @field_validator("services", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return [
            load_scenario(entry["scenario"]).model_dump() | {k: v for k, v in entry.items() if k != "scenario"}
            if isinstance(entry, dict) and "scenario" in entry
            else entry
            for entry in value
        ]


def load_node(name: str) -> Node:
    """A shipped node by name."""
    text = (resources.files("sponge_simulator") / "nodes" / f"{name}.yaml").read_text(encoding="utf-8")
    return Node.model_validate(yaml.safe_load(text))


def run_node(policy: str, node: Node, schedules: Sequence[Sequence[Request]], seed: int) -> list[SimulationResult]:
    """Runs the services side by side to their end: one result each, in the node's order.

    Each starts on an equal part of the node. What one wants is granted as far as there is room, whoever asks first.

    Args:
        policy: of every service by itself, or `JOINTLY`.
        schedules: the requests of each service, ascending in arrival.
    """
    services = [each.service(load_profile(each.profile).latency_model()) for each in node.services]
    policies: Sequence[ScalingPolicy]
    if policy == JOINTLY:
        policies = SharedNode(services, node.cores).members
        rules = [
            make_policy(f"sponge@{own.dispatch}", service) for own, service in zip(policies, services, strict=True)
        ]
    else:
        rules = [make_policy(policy, service) for service in services]
        policies = [chosen.scaling for chosen in rules]
    runs: list[ServiceRun] = []

    def room() -> float:
        if len(runs) < len(services):
            return node.cores / len(services)
        return node.cores - sum(run.reserved_cores for run in runs)

    for index, (scenario, service) in enumerate(zip(node.services, services, strict=True)):
        world = ClusterModel(node.duration_s, scenario.resizes(seed + 1000 * index))
        runs.append(ServiceRun(schedules[index], service, policies[index], rules[index].dispatch, world, room))
    _run(runs)
    return [run.result() for run in runs]


def _run(runs: Sequence[ServiceRun]) -> None:
    """To the end of all. Who comes first when several are due at once takes turns."""
    turn = 0
    while (at := min(run.next_at() for run in runs)) < math.inf:
        for run in (*runs[turn:], *runs[:turn]):
            if run.next_at() <= at:
                run.advance(at)
        turn = (turn + 1) % len(runs)
