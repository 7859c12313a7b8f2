"""What a pod is left with: as it was started, or with enough for a time without an operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sponge_operator.autoscale.leaving import Left, left_as_started, left_with_enough
from sponge_operator.autoscale.memory import MemoryRule

RULE = MemoryRule(base=1 << 30, per_item=16 << 20, most_batch=4)


def pod(startup: str | None = "1", memory: str = "512Mi") -> dict[str, Any]:
    """A pod that was started with `startup` cores and now has a memory limit of `memory`."""
    limits = {"cpu": "250m", "memory": memory}
    return {
        "metadata": {"annotations": {} if startup is None else {"serving.sponge.dev/startup-cpu": startup}},
        "spec": {"containers": [{"name": "server", "resources": {"limits": limits}}]},
        "status": {"containerStatuses": [{"name": "server", "resources": {"limits": limits}}]},
    }


@pytest.mark.parametrize(
    ("startup", "memory", "rule", "left"),
    [
        ("1", "512Mi", RULE, Left(1000, RULE.most)),
        ("1", f"{RULE.most >> 20}Mi", RULE, Left(1000)),
        ("1", "512Mi", replace(RULE, in_place=False), Left(1000)),
        ("1", "512Mi", None, Left(1000)),
        (None, "512Mi", None, Left()),
        ("edited", "512Mi", RULE, Left(None, RULE.most)),
    ],
)
def test_without_a_service_a_pod_is_left_as_it_was_started(
    startup: str | None, memory: str, rule: MemoryRule | None, left: Left
) -> None:
    assert left_as_started(pod(startup, memory), rule) == left


@pytest.mark.parametrize(
    ("has", "fallback", "startup", "left"),
    [
        (250, None, "1", Left(1000)),
        (250, 500, "1", Left(500)),
        (750, 500, "1", Left()),
        (1000, None, "1", Left()),
        (None, 500, "1", Left()),
        (250, None, None, Left()),
    ],
)
def test_without_an_operator_a_pod_is_left_with_enough(
    has: int | None, fallback: int | None, startup: str | None, left: Left
) -> None:
    assert left_with_enough(pod(startup), has, fallback) == left
