"""What goes wrong in the middle of a resize, in the real cluster."""

from __future__ import annotations

import pytest
from operator_kit import Kubectl, Service, eventually, identity, millicores, operator_restarts, quota_file, scraped

pytestmark = [pytest.mark.e2e, pytest.mark.torch]


def test_a_pod_that_is_deleted_while_it_is_resized_is_followed_by_one_of_the_new_size(
    kubectl: Kubectl, digits: Service
) -> None:
    eventually(lambda: millicores(quota_file(digits.pod())) == 250, 40, "an idle pod has its smallest size")
    before, restarts = digits.pod(), operator_restarts(kubectl)
    digits.patch(cpu={"min": "1"})
    name = before["metadata"]["name"]
    kubectl("delete", "pod", name, "-n", digits.namespace, "--grace-period=0", "--force", "--wait=false")
    try:
        eventually(
            lambda: digits.pods() and digits.pod()["metadata"]["uid"] != before["metadata"]["uid"], 30, "another pod"
        )
        eventually(lambda: digits.is_("Ready", "True", "PodsReady"), 90, "the new pod is ready")
        eventually(lambda: millicores(quota_file(digits.pod())) == 1000, 10, "the new pod has the new size")
        eventually(lambda: digits.is_("Planning", "True", "Auto"), 10, "the new pod is driven")
    finally:
        digits.patch(cpu={"min": "250m"})
    eventually(lambda: millicores(quota_file(digits.pod())) == 250, 20, "the new pod is resized as the old one was")
    assert identity(digits.pod())[2] == 0
    assert ("Normal", "Ready") in digits.events()
    eventually(lambda: name not in scraped(kubectl), 5, "the series of the old pod end with it")
    assert operator_restarts(kubectl) == restarts
