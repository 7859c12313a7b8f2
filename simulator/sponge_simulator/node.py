"""Simulates several services on one node, each with its own queue and policy.

The shipped nodes are in `nodes/`.
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
"""A policy for a whole node, so it is not in the registry of policies, which are for one service."""


class Node(BaseModel):
    """Services on one node, all running for the same time.

    Attributes:
        cores: the cores that the containers of all services share.
        services: each the name of a shipped scenario with changed fields, or a full scenario.
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
    """Loads a shipped node by name."""
    text = (resources.files("sponge_simulator") / "nodes" / f"{name}.yaml").read_text(encoding="utf-8")
    return Node.model_validate(yaml.safe_load(text))


def run_node(policy: str, node: Node, schedules: Sequence[Sequence[Request]], seed: int) -> list[SimulationResult]:
    """Runs the services side by side to their end.

    Each service starts on an equal part of the node. A wanted size is granted as far as there is room, first come,
    first served.

    Args:
        policy: the policy of each service by itself, or `JOINTLY`.
        schedules: the requests of each service, ascending in arrival.

    Returns:
        One result for each service, in the node's order.
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
        cluster = ClusterModel(node.duration_s, scenario.resizes(seed + 1000 * index))
        runs.append(ServiceRun(schedules[index], service, policies[index], rules[index].dispatch, cluster, room))
    _run(runs)
    return [run.result() for run in runs]


def _run(runs: Sequence[ServiceRun]) -> None:
    """Runs all services to the end; those with events at the same time take turns to go first."""
    turn = 0
    while (at := min(run.next_at() for run in runs)) < math.inf:
        for run in (*runs[turn:], *runs[:turn]):
            if run.next_at() <= at:
                run.advance(at)
        turn = (turn + 1) % len(runs)
