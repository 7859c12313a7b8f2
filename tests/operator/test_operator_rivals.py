"""Other autoscalers of the same Deployment, as the watches tell of them."""

from __future__ import annotations

from typing import Any

import pytest

from sponge_operator.clients.rivals import Rivals

HPA, VPA = "HorizontalPodAutoscaler", "VerticalPodAutoscaler"


def scaler(kind: str, target: str = "digits", uid: str = "1", **spec: Any) -> dict[str, Any]:
    field = "scaleTargetRef" if kind == HPA else "targetRef"
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}
    return {"metadata": {"namespace": "team-a", "name": f"s{uid}", "uid": uid}, "spec": {field: reference, **spec}}


def policies(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"containerPolicies": [{"containerName": name, "mode": mode} for name, mode in pairs]}


@pytest.mark.parametrize(
    ("kind", "spec", "conflicts"),
    [
        (HPA, {}, True),
        (HPA, {"metrics": [{"type": "External"}]}, True),
        (HPA, {"scaleTargetRef": {"kind": "StatefulSet", "name": "digits"}}, False),
        (HPA, {"scaleTargetRef": {"apiVersion": "x.io/v1", "kind": "Deployment", "name": "digits"}}, False),
        (VPA, {}, True),
        (VPA, {"updatePolicy": {"updateMode": "Off"}}, False),
        (VPA, {"updatePolicy": {"updateMode": "Initial"}}, True),
        (VPA, {"updatePolicy": {"updateMode": "InPlaceOrRecreate"}}, True),
        (VPA, {"resourcePolicy": policies(("server", "Off"))}, False),
        (VPA, {"resourcePolicy": policies(("*", "Off"))}, False),
        (VPA, {"resourcePolicy": policies(("*", "Off"), ("server", "Auto"))}, True),
        (VPA, {"resourcePolicy": policies(("proxy", "Off"))}, True),
    ],
)
def test_who_conflicts(kind: str, spec: dict[str, Any], conflicts: bool) -> None:
    rivals = Rivals(lambda _: None)
    rivals.seen(kind, scaler(kind, **spec))
    assert (rivals.of("team-a/digits") is not None) is conflicts


def test_a_conflict_ends_when_the_autoscaler_goes_or_points_elsewhere() -> None:
    changes: list[str] = []
    rivals = Rivals(changes.append)
    rivals.seen(HPA, scaler(HPA))
    rivals.seen(HPA, scaler(HPA))
    rivals.seen(VPA, scaler(VPA, uid="2"))
    assert rivals.of("team-a/digits") == (
        "HorizontalPodAutoscaler 's1' scales the Deployment 'digits' too; delete it or point it elsewhere"
    )
    assert rivals.of("team-b/digits") is None
    rivals.seen(HPA, scaler(HPA, "other"))
    assert "VerticalPodAutoscaler 's2'" in (rivals.of("team-a/digits") or "")
    rivals.seen(VPA, scaler(VPA, uid="2"), gone=True)
    assert rivals.of("team-a/digits") is None
    rivals.seen(VPA, scaler(VPA, uid="2"), gone=True)
    assert sorted(changes) == ["team-a/digits"] * 4 + ["team-a/other"]
