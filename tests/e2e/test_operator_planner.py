"""The paper's planner sizes a pod of the real cluster."""

from __future__ import annotations

import pytest
from operator_kit import Kubectl, Service, eventually, identity, millicores, quota_file, scraped

pytestmark = [pytest.mark.e2e, pytest.mark.torch]


def test_the_papers_planner_gives_whole_cores(digits: Service, kubectl: Kubectl) -> None:
    pod = digits.pod()
    quota = quota_file(pod)
    eventually(lambda: millicores(quota) == 250, 40, "an idle pod has its smallest size")
    digits.patch(planner={"policy": "paper"})
    # Nothing arrives: its program takes one core and batches of 1.
    eventually(lambda: millicores(quota) == 1000, 10, "the paper's size is in force")
    eventually(lambda: digits.get()["status"].get("batch") == 1, 10, "and so is its batch")
    assert 'sponge_operator_plan_seconds_count{policy="paper"}' in scraped(kubectl)
    digits.patch(planner={"policy": "projected"})
    eventually(lambda: millicores(quota) == 250, 10, "the projection decides again")
    assert identity(digits.pod()) == identity(pod)
