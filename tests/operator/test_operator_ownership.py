"""What belongs to a service: by its controller, never by name or label alone."""

from __future__ import annotations

from typing import Any

import pytest
from test_operator_models import body

from sponge_operator.clients.replica_sets import ReplicaSets
from sponge_operator.resources.model import parse_service
from sponge_operator.resources.ownership import controller_of, obstacle_to_apply

SERVICE = parse_service(body())
LABELS = {"serving.sponge.dev/service": SERVICE.name, "app.kubernetes.io/managed-by": "sponge-operator"}


def owned(
    uid: str, kind: str = "SpongeService", name: str = SERVICE.name, group: str = "serving.sponge.dev", **more: Any
) -> dict[str, Any]:
    return {"apiVersion": f"{group}/v1alpha1", "kind": kind, "name": name, "uid": uid, "controller": True, **more}


def found(*owners: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "digits", "uid": "x", "ownerReferences": list(owners), **metadata}}


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        (found(owned(SERVICE.uid)), None),
        (found(owned("other", controller=False), owned(SERVICE.uid)), None),
        (found(), "NameTaken"),
        ({"metadata": {"name": "digits", "uid": "x"}}, "NameTaken"),
        (found(labels={"serving.sponge.dev/service": SERVICE.name}), "NameTaken"),
        (found(labels={**LABELS, "serving.sponge.dev/service": "other"}), "NameTaken"),
        (found(labels=LABELS), None),
        (found(labels=LABELS, deletionTimestamp="now"), "NameTaken"),
        (found(owned(SERVICE.uid, controller=False)), "NameTaken"),
        (found(owned("other", kind="ReplicaSet", group="apps"), labels=LABELS), "NameTaken"),
        (found(owned("other", name="another"), labels=LABELS), "NameTaken"),
        (found(owned("other", group="example.com"), labels=LABELS), "NameTaken"),
        (found(owned("former"), labels=LABELS), "ChildLeaving"),
        (found(owned(SERVICE.uid), deletionTimestamp="now"), "ChildLeaving"),
    ],
)
def test_only_what_is_ours_or_an_orphan_of_ours_is_applied_over(present: dict[str, Any], reason: str | None) -> None:
    obstacle = obstacle_to_apply("Service", present, SERVICE)
    assert (obstacle and obstacle.reason) == reason
    if obstacle is not None:
        assert "Service 'digits'" in obstacle.message


def test_a_pod_belongs_to_the_deployment_of_its_replica_set() -> None:
    known = ReplicaSets()
    pod = found(owned("rs", kind="ReplicaSet"))
    assert known.deployment_of(pod) is None
    replica_set = {"metadata": {"uid": "rs", "ownerReferences": [owned("d", kind="Deployment")]}}
    known.seen(replica_set, gone=False)
    assert known.deployment_of(pod) == "d"
    assert known.deployment_of(found()) is None
    assert known.deployment_of(found(owned("rs", controller=False))) is None
    known.seen({"metadata": {"uid": "rs"}}, gone=False)
    assert known.deployment_of(pod) is None
    known.seen(replica_set, gone=False)
    known.seen(replica_set, gone=True)
    assert known.deployment_of(pod) is None
    assert controller_of(found()) is None
