"""Measured profiles are kept for the pods to come, and dropped where they would mislead."""

from __future__ import annotations

from typing import Any

import pytest
from operator_world import World
from virtual_time import VirtualLoop, run_virtual

from sponge_core.control_api import ProfileReport
from sponge_operator.autoscale.profile_keeper import CHECK_S, DRIFT_CHECK_S, RETRY_S
from sponge_operator.clients.kube import ApiError
from sponge_operator.resources.profile_store import (
    DIGEST_ANNOTATION,
    SOURCE_HASH_VARIABLE,
    STORE_DIR,
    STORE_VARIABLE,
    prefix_of,
    source_hash,
    store_prefix,
    with_profile,
    without_profile,
)

PREFIX = "abc"


def store(digest: str = "sha256:1", **data: str) -> dict[str, Any]:
    named = {f"{key.replace('_', '-')}.yaml": text for key, text in data.items()}
    return {"metadata": {"annotations": {DIGEST_ANNOTATION: digest}}, "data": named}


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        pytest.param(None, {"abc-amd.yaml": "new"}, id="the first"),
        pytest.param(store(abc_intel="i"), {"abc-intel.yaml": "i", "abc-amd.yaml": "new"}, id="another CPU type"),
        pytest.param(store(abc_amd="old"), {"abc-amd.yaml": "new"}, id="measured again"),
        pytest.param(store(other_amd="o"), {"abc-amd.yaml": "new"}, id="another model or image"),
        pytest.param(store("sha256:0", abc_intel="i"), {"abc-amd.yaml": "new"}, id="another digest of that image"),
        pytest.param(store(abc_amd="new"), None, id="nothing new"),
    ],
)
def test_one_more_profile(present: dict[str, Any] | None, expected: dict[str, str] | None) -> None:
    changed = with_profile(present, PREFIX, "amd", "sha256:1", "new")
    assert (None if changed is None else changed["data"]) == expected
    assert changed is None or changed["annotations"] == {DIGEST_ANNOTATION: "sha256:1"}


def test_one_profile_less() -> None:
    both = store(abc_amd="a", abc_intel="i")
    changed = without_profile(both, PREFIX, "amd", "sha256:1")
    assert changed is not None
    assert changed["data"] == {"abc-intel.yaml": "i"}
    assert without_profile(store(abc_intel="i"), PREFIX, "amd", "sha256:1") is None
    assert without_profile(None, PREFIX, "amd", "sha256:1") is None


def test_the_prefix_follows_model_and_image() -> None:
    def prefix(source: str, image: str) -> str | None:
        variable = {"name": STORE_VARIABLE, "value": f"{STORE_DIR}/{store_prefix(image)}"}
        return prefix_of({"spec": {"containers": [{"name": "server", "env": [variable]}]}}, "server", source)

    assert len({prefix(*pair) for pair in (("m", "i"), ("m", "j"), ("n", "i"), ("mi", ""))}) == 4
    started = store_prefix("i").replace(f"$({SOURCE_HASH_VARIABLE})", source_hash("m"))
    assert prefix("m", "i") == started, "the container finds it by the variable in its environment"


# --- in virtual time -----------------------------------------------------------------------------------------------


class KeptMaps:
    """ConfigMaps of the API server. `refusal` is answered to the next write."""

    def __init__(self, world: World) -> None:
        self.present: dict[str, Any] | None = None
        self.refusal: ApiError | None = None
        self.writes = 0
        kube: Any = world.context.kube
        kube.get, kube.apply = self.get, self.apply

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert (kind, namespace, name) == ("ConfigMap", "team-a", "digits-sponge-profiles")
        return self.present

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        if self.present is not None:
            assert manifest["metadata"]["resourceVersion"] == self.present["metadata"]["resourceVersion"]
        self.writes += 1
        self.present = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self.writes)}}
        return self.present


def measured(origin: str = "measured", **changes: Any) -> ProfileReport:
    values = {"origin": origin, "cpu_type": "amd", "profile": "text"} | changes
    return ProfileReport.model_validate(values)


def started(report: ProfileReport, **spec: Any) -> tuple[World, KeptMaps]:
    world = World(start=500, **spec)
    world.profile = report
    container, status = world.pod["spec"]["containers"][0], world.pod["status"]
    container["env"] = [{"name": STORE_VARIABLE, "value": f"{STORE_DIR}/{PREFIX}"}]
    status["containerStatuses"][0]["imageID"] = "sha256:1"
    status["conditions"] = [{"type": "Ready", "status": "True"}]
    world.touch()
    return world, KeptMaps(world)


def test_what_was_measured_is_kept_once() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world, maps = started(measured())
        assert prefix_of(world.pod, "server", "digits://") == PREFIX, "a pod of an earlier operator"
        await world.run(5 * CHECK_S)
        assert maps.present is not None
        assert maps.present["data"] == {"abc-amd.yaml": "text"}
        assert maps.present["metadata"]["annotations"] == {DIGEST_ANNOTATION: "sha256:1"}
        assert maps.present["metadata"]["ownerReferences"][0]["kind"] == "SpongeService"
        assert maps.writes == 1

    run_virtual(scenario)


def test_the_profile_of_another_source_is_kept_when_that_serves() -> None:
    new = "file:///models/new.pt2"

    async def scenario(_: VirtualLoop) -> None:
        world, maps = started(measured(source="digits://"))
        value = f"{STORE_DIR}/{store_prefix('i')}"
        world.pod["spec"]["containers"][0]["env"] = [{"name": STORE_VARIABLE, "value": value}]
        world.touch()
        await world.run(5 * CHECK_S)
        assert maps.present is not None
        (former,) = maps.present["data"]
        assert former == f"{prefix_of(world.pod, 'server', 'digits://')}-amd.yaml"
        assert world.controller is not None
        world.controller.want_source(new)
        world.profile = measured(source=new, profile="another text")
        await world.run(DRIFT_CHECK_S + 30.0)
        name = f"{prefix_of(world.pod, 'server', new)}-amd.yaml"
        assert maps.present["data"] == {name: "another text"}
        assert name != former

    run_virtual(scenario)


@pytest.mark.parametrize(
    ("report", "spec"),
    [
        pytest.param(measured("given", profile=None), {}, id="a profile that was given"),
        pytest.param(measured(), {"profile": {"from": "resnet18-paper"}}, id="a shipped profile"),
        pytest.param(measured("stored"), {}, id="started with what is kept"),
    ],
)
def test_what_was_not_measured_is_not_kept(report: ProfileReport, spec: dict[str, Any]) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world, maps = started(report, **spec)
        maps.present = {**store(abc_amd="text"), "kind": "ConfigMap"}
        maps.present["metadata"]["resourceVersion"] = "0"
        await world.run(5 * CHECK_S)
        assert maps.writes == 0

    run_virtual(scenario)


def test_a_profile_of_another_digest_is_dropped() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world, maps = started(measured("stored"))
        maps.present = store("sha256:0", abc_amd="text")
        maps.present["metadata"]["resourceVersion"] = "0"
        await world.run(5 * CHECK_S)
        assert maps.present["data"] == {}

    run_virtual(scenario)


def test_a_refused_write_is_tried_again() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world, maps = started(measured())
        maps.refusal = ApiError(409, {"message": "the object has been modified"})
        await world.run(5 * CHECK_S)
        assert maps.writes == 0
        await world.run(RETRY_S + 5 * CHECK_S)
        assert maps.writes == 1

    run_virtual(scenario)


def test_a_profile_that_drifts_is_dropped() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world, maps = started(measured())
        plain = world.snapshot
        drifts = False
        world.snapshot = lambda: plain().model_copy(update={"profile_drifted": drifts})  # type: ignore[method-assign]
        await world.run(5 * CHECK_S)
        assert maps.writes == 1
        drifts = True
        await world.run(2 * DRIFT_CHECK_S)
        assert maps.present is not None
        assert maps.present["data"] == {}

    run_virtual(scenario)


@pytest.mark.parametrize(
    ("wants", "spec", "granted"),
    [
        (1000, {}, [1000]),
        (1500, {}, [1500]),
        (2000, {}, []),
        (250, {}, []),
        (None, {}, []),
        (1000, {"profile": {"from": "resnet18-paper"}}, []),
        (1000, {"mode": "Recommend"}, []),
    ],
)
def test_a_starting_server_gets_the_limit_that_it_measures_under(
    wants: int | None, spec: dict[str, Any], granted: list[int]
) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world, _maps = started(measured("measuring", profile=None, wants_milli=wants), **spec)
        world.starting = True
        await world.run(5.0)
        assert world.patches() == granted
        assert world.quota == (granted or [500])[-1]

    run_virtual(scenario)


def test_a_limit_that_the_node_lacks_is_asked_for_once() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world, _maps = started(measured("measuring", profile=None, wants_milli=1500))
        world.starting, world.room = True, 1000
        await world.run(10.0)
        assert world.patches() == [1500, 500]
        assert world.quota == 500

    run_virtual(scenario)
