"""How a changed source reaches the pods: in place, one after the other, or by replacing them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_operator_models import body

from sponge_core.control_api import LoadFailure, SourceReport
from sponge_operator.autoscale.pod_state import PodState
from sponge_operator.resources.model import SpongeService, parse_service
from sponge_operator.resources.source_plan import Rollout, SourcePlan, plan_source, rollout_now

OLD, NEW, THIRD = "digits://?version=1", "digits://?version=2", "digits://?version=3"


def service(source: str = NEW, generation: int = 2, **spec: Any) -> SpongeService:
    model = {"name": "digits", "source": source, **spec.pop("model", {})}
    manifest = body(model=model, **spec)
    manifest["metadata"]["generation"] = generation
    return parse_service(manifest)


def rollout(source: str = OLD, **changes: Any) -> Rollout:
    """Pods that start with this source; all have the newest template."""
    values = {"key": "k", "sources": {"k": source}, "ready": 1, "template": "t(k)"}
    return Rollout(**{"is_observed": True, "is_complete": True, **values, **changes})


def pod(name: str = "p1", serving: str | None = OLD, **changes: Any) -> PodState:
    """A pod that accepts requests; `loading` and `failed` belong to its server's report."""
    report = {key: changes.pop(key) for key in ("loading", "failed") if key in changes}
    values: dict[str, Any] = {"reachable": True, "in_service": True, "source_key": "k"}
    return PodState(name, **{**values, "source": SourceReport(serving=serving, **report), **changes})


def failed(source: str = NEW, *, no_room: bool = False) -> LoadFailure:
    return LoadFailure(source=source, no_room=no_room, message="these weights are torn")


def plan(
    *pods: PodState, now: Rollout | None = rollout(), patient: bool = True, source: str = NEW, **spec: Any
) -> SourcePlan:
    return plan_source(service(source, **spec), now, pods, lambda key: f"t({key})", patient=patient)


def test_a_new_service_starts_with_its_source() -> None:
    made = plan(now=None)
    assert (dict(made.sources), made.load, made.change, made.rolls) == ({made.key: NEW}, None, None, "")


def test_one_pod_after_the_other_loads_it_and_then_new_containers_start_with_it() -> None:
    now = rollout(ready=2)
    first = plan(pod("p1"), pod("p2"), now=now)
    assert (first.key, dict(first.sources), first.load) == ("k", {"k": OLD}, "p1")
    assert first.change is not None
    assert (first.change.reason, first.change.severe) == ("SourceLoading", False)
    assert "p1 loads digits://?version=2 beside digits://?version=1; 0 of 2 pods" in first.change.message
    assert plan(pod("p1"), pod("p2", loading=NEW), now=now).load == "p2", "one that has begun goes on"
    second = plan(pod("p1", NEW), pod("p2"), now=now)
    assert (dict(second.sources), second.load) == ({"k": OLD}, "p2")
    done = plan(pod("p1", NEW), pod("p2", NEW), now=now)
    assert (done.key, dict(done.sources), done.load, done.change) == ("k", {"k": NEW}, None, None)
    assert plan(pod("p1", NEW), pod("p2", NEW), now=rollout(NEW, ready=2)) == done, "and nothing more"


@pytest.mark.parametrize(
    ("pods", "changes", "spec", "why"),
    [
        pytest.param([pod()], {}, {"mode": "Off"}, "spec.mode is Off", id="off"),
        pytest.param(
            [pod()],
            {},
            {"model": {"accuracy": 0.9, "variants": [{"name": "small", "source": OLD, "accuracy": 0.8}]}},
            "variants",
            id="variants",
        ),
        pytest.param([pod()], {}, {"profile": {"from": "resnet18-paper"}}, "spec.profile", id="a given profile"),
        pytest.param([pod()], {"template": "other"}, {}, "other ways", id="more than the source changes"),
        pytest.param([pod(in_service=False)], {"ready": 0}, {}, "no pod accepts requests", id="nobody serves"),
        pytest.param([pod(fixed_source="it cannot")], {}, {}, "p1: it cannot", id="a server that cannot"),
        pytest.param([pod(failed=failed(no_room=True))], {}, {}, "p1: these weights", id="no room"),
        pytest.param(
            [pod(), pod("p2", None, in_service=False, failed=failed(no_room=True))],
            {},
            {},
            "p2: these weights",
            id="a container that ended in the load",
        ),
    ],
)
def test_what_replaces_the_pods(pods: list[PodState], changes: Any, spec: dict[str, Any], why: str) -> None:
    made = plan(*pods, now=rollout(**changes), **spec)
    assert why in made.rolls
    assert made.load is None
    assert made.key != "k"
    assert dict(made.sources) == {"k": OLD, made.key: NEW}, "pods of the former template may start again"
    assert plan(*pods, now=rollout(**changes), **spec) == made, "an operator that starts again does nothing twice"
    after = rollout(key=made.key, sources=made.sources, is_complete=False, template=f"t({made.key})")
    rolling = plan(*pods, now=after, **spec)
    assert (rolling.key, rolling.sources, rolling.rolls) == (made.key, made.sources, "")
    complete = plan(pod("p3", NEW), now=rollout(key=made.key, sources=made.sources, template=after.template), **spec)
    assert dict(complete.sources) == {made.key: NEW}, "nobody starts with the former one any more"


def test_a_source_that_cannot_be_loaded_keeps_the_pods_and_says_why() -> None:
    made = plan(pod(failed=failed()))
    assert (made.key, dict(made.sources), made.load, made.rolls) == ("k", {"k": OLD}, "p1", "")
    assert made.change is not None
    assert (made.change.reason, made.change.severe) == ("LoadFailed", True)
    assert "cannot be loaded: these weights are torn; digits://?version=1 serves on" in made.change.message
    again = plan(pod(failed=failed(THIRD)))
    assert again.change is not None
    assert again.change.reason == "SourceLoading", "another source has failed before"


def test_a_change_that_is_taken_back_is_undone_where_it_has_come() -> None:
    assert plan(pod("p1", NEW), pod("p2"), now=rollout(ready=2), source=OLD).load == "p1"
    back = plan(pod(failed=failed()), source=OLD)
    assert (back.load, back.change) == (None, None)


def test_an_edit_while_pods_are_replaced_replaces_them_again() -> None:
    now = rollout(NEW, is_complete=False, sources={"k": NEW, "j": OLD})
    made = plan(pod(), now=now, source=THIRD)
    assert made.rolls
    assert dict(made.sources) == {"k": NEW, "j": OLD, made.key: THIRD}
    back = plan(pod(), now=now, source=OLD)
    assert back.key == "j", "pods with the former template are still there"


def test_a_deployment_that_was_just_changed_is_waited_for() -> None:
    made = plan(pod(), now=rollout(is_observed=False, is_complete=False))
    assert (made.key, made.load, made.rolls) == ("k", None, "")
    assert made.change is not None
    assert made.change.reason == "RollingOut"


@pytest.mark.parametrize(
    "pods",
    [[pod(reachable=False)], [pod(source=None)], []],
    ids=["no answer", "not asked yet", "not seen yet"],
)
def test_a_silent_server_is_waited_for_a_while(pods: list[PodState]) -> None:
    waits = plan(*pods)
    assert (waits.key, waits.load, waits.rolls) == ("k", None, "")
    assert waits.change is not None
    assert waits.change.reason == "SourceUnknown"
    assert "does not answer" in plan(*pods, patient=False).rolls
    assert plan(*pods, patient=False, source=OLD).rolls == "", "without a change, silence replaces nobody"


def test_a_pod_that_started_with_the_former_source_follows() -> None:
    """It was being created when the others changed."""
    made = plan(pod("p1", NEW), pod("p2"), now=rollout(NEW, ready=2))
    assert (made.load, dict(made.sources)) == ("p2", {"k": NEW})


def test_a_pod_of_the_former_template_is_not_asked_any_more() -> None:
    """Its end is seen a moment after the rollout's."""
    former = pod(source_key="j", failed=failed(no_room=True))
    assert plan(former, now=rollout(NEW)) == plan(now=rollout(NEW))
    assert plan(former, pod("p2"), now=rollout()).load == "p2"


def test_a_lost_config_map_comes_back_with_the_source_of_the_spec() -> None:
    made = plan(pod(), now=rollout(sources={}))
    assert (made.key, dict(made.sources), made.load) == ("k", {"k": NEW}, "p1")


def test_what_the_objects_say() -> None:
    deployment = {
        "metadata": {
            "generation": 3,
            "annotations": {"serving.sponge.dev/source-key": "k", "serving.sponge.dev/template-hash": "t"},
        },
        "status": {"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 1},
    }
    config_map = {"data": {"min-cores": "1", "source.k": OLD, "source-hash.k": "123"}}
    assert rollout_now(deployment, config_map) == Rollout("k", {"k": OLD}, True, True, 1, "t")
    assert rollout_now(None, config_map) is None
    assert rollout_now({"metadata": {}}, config_map) is None, "of an earlier operator: its pods are replaced once"


reports = st.one_of(
    st.none(),
    st.builds(
        SourceReport,
        serving=st.sampled_from([None, OLD, NEW]),
        loading=st.sampled_from([None, NEW, THIRD]),
        failed=st.sampled_from([None, failed(), failed(no_room=True), failed(THIRD)]),
    ),
)
pods_of = st.lists(
    st.builds(
        PodState,
        name=st.sampled_from(["p1", "p2", "p3"]),
        reachable=st.booleans(),
        in_service=st.booleans(),
        source_key=st.sampled_from(["k", "k", "j", None]),
        source=reports,
        fixed_source=st.sampled_from(["", "", "it cannot"]),
    ),
    max_size=3,
    unique_by=lambda state: state.name,
)
rollouts = st.builds(
    rollout,
    source=st.sampled_from([OLD, NEW]),
    is_observed=st.booleans(),
    is_complete=st.booleans(),
    ready=st.integers(0, 3),
    template=st.sampled_from(["t(k)", "t(k)", "other"]),
)


@given(rollouts, pods_of, st.booleans())
def test_what_always_holds(now: Rollout, pods: list[PodState], patient: bool) -> None:
    made = plan(*pods, now=now, patient=patient)
    assert made.key in made.sources
    assert (made.key != now.key) == bool(made.rolls), "a reason is told whenever the pods are replaced, and only then"
    if made.rolls:
        assert made.sources[made.key] == NEW
        assert made.load is None
        assert made.sources[now.key] == now.sources[now.key], "pods that are there start again as they were"
    if made.load is not None:
        (loads,) = (state for state in pods if state.name == made.load)
        assert loads.in_service
        assert loads.source is not None
        assert loads.source.serving != NEW
    if now.sources["k"] == OLD and made.sources.get("k") == NEW:
        serving = [state for state in pods if state.in_service and state.source_key == "k"]
        assert all(state.source and state.source.serving == NEW for state in serving)
        assert serving, "somebody has shown that it can be loaded"
