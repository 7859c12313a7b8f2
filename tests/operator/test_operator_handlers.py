"""The handlers under the real kopf, against an API server that refuses, forgets, and cuts connections."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from api_server import ApiServer, api_server, wait_for

from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.pulse import DEAD_S, STREAM_S, Pulse, Pulses
from sponge_operator.handlers import PAUSES_S, watch, watched_paths
from sponge_operator.health import Health
from sponge_operator.reconcile.operator import Operator

KINDS = {
    "spongeservices": "SpongeService",
    "pods": "Pod",
    "services": "Service",
    "configmaps": "ConfigMap",
    "deployments": "Deployment",
    "replicasets": "ReplicaSet",
    "horizontalpodautoscalers": "HorizontalPodAutoscaler",
}
OF_FRONTS = {
    "serviceaccounts": "ServiceAccount",
    "rolebindings": "RoleBinding",
    "poddisruptionbudgets": "PodDisruptionBudget",
}
ALL = KINDS | OF_FRONTS


class Seen:
    """What the handlers passed on."""

    def __init__(self) -> None:
        self.present: dict[str, set[str]] = {kind: set() for kind in ALL.values()}
        self.fails_on = ""
        self.pulses = Pulses(watched_paths(("team-a",), fronts=True), asyncio.get_running_loop().time)

    def service_seen(self, item: Mapping[str, Any], *, gone: bool) -> None:
        self._take("SpongeService", item, gone)

    def pod_seen(self, item: Mapping[str, Any], *, gone: bool) -> None:
        self._take("Pod", item, gone)

    def replica_set_seen(self, item: Mapping[str, Any], *, gone: bool) -> None:
        self._take("ReplicaSet", item, gone)

    def child_seen(self, kind: str, item: Mapping[str, Any], *, gone: bool) -> None:
        self._take(kind, item, gone)

    def scaler_seen(self, kind: str, item: Mapping[str, Any], *, gone: bool) -> None:
        self._take(kind, item, gone)

    def _take(self, kind: str, item: Mapping[str, Any], gone: bool) -> None:
        uid = item["metadata"]["uid"]
        if uid == self.fails_on:
            raise KeyError(uid)
        (self.present[kind].discard if gone else self.present[kind].add)(uid)


@asynccontextmanager
async def watching(
    kube: Kube, started: Callable[[], None] = lambda: None, *, fronts: bool = True
) -> AsyncIterator[Seen]:
    seen = Seen()
    task = asyncio.create_task(watch(cast(Operator, seen), kube, seen.pulses, ("team-a",), started, fronts=fronts))
    try:
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_the_user_needs_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    async with api_server(tmp_path) as (server, kube), watching(kube) as seen:
        server.put("spongeservices", "before")
        await wait_for(lambda: seen.present["SpongeService"] == {"before"}, "the operator watches")


@pytest.mark.parametrize("fronts", [False, True])
async def test_changes_are_passed_on_and_nothing_is_written(tmp_path: Path, fronts: bool) -> None:
    kinds = ALL if fronts else KINDS
    async with api_server(tmp_path) as (server, kube), watching(kube, fronts=fronts) as seen:
        server.put("spongeservices", "before")
        await wait_for(lambda: seen.present["SpongeService"] == {"before"}, "what is there is seen")
        for plural in kinds:
            await wait_for(partial(lambda p: f"watch {p}" in server.asked, plural), f"{plural} are watched")
            server.put(plural, "a")
        server.put("spongeservices", "before", deletionTimestamp="now", finalizers=["orphan"])
        await wait_for(lambda: all("a" in seen.present[kind] for kind in kinds.values()), "changes are seen")
        for plural in kinds:
            server.remove(plural, "a")
        await wait_for(lambda: not any("a" in present for present in seen.present.values()), "ends are seen")
        assert seen.present["SpongeService"] == {"before"}
    assert set(server.asked) == {f"{verb} {plural}" for verb in ("list", "watch") for plural in kinds}


async def test_a_signal_reaches_the_process_and_not_kopf_alone(tmp_path: Path) -> None:
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    async with (
        api_server(tmp_path) as (server, kube),
        watching(kube, lambda: loop.add_signal_handler(signal.SIGTERM, told.set)),
    ):
        await wait_for(lambda: "watch pods" in server.asked, "kopf runs")
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.wait_for(told.wait(), 10)
        finally:
            loop.remove_signal_handler(signal.SIGTERM)


async def test_a_watch_goes_on_after_each_stream_and_after_its_history_is_lost(tmp_path: Path) -> None:
    async with api_server(tmp_path) as (server, kube), watching(kube) as seen:
        for number in range(1, 4):
            await wait_for(partial(lambda n: server.asked.count("watch pods") >= n, number), "the watch is open")
            server.put("pods", str(number))
            await wait_for(partial(lambda n: len(seen.present["Pod"]) == n, number), "the change is seen")
            if number == 2:
                server.oldest = server.version + 1
            server.cut()
            await wait_for(partial(lambda n: server.asked.count("watch pods") > n, number), "the watch goes on")
            server.oldest = 0
        assert server.asked.count("list pods") >= 2


async def test_a_handler_that_fails_on_one_object_sees_the_others(tmp_path: Path) -> None:
    async with api_server(tmp_path) as (server, kube), watching(kube) as seen:
        seen.fails_on = "bad"
        for uid in ("bad", "good"):
            server.put("pods", uid)
        await wait_for(lambda: seen.present["Pod"] == {"good"}, "the good one is seen")


async def test_a_new_token_is_read_when_the_former_one_is_refused(tmp_path: Path) -> None:
    async with api_server(tmp_path) as (server, kube), watching(kube) as seen:
        await wait_for(lambda: "watch pods" in server.asked, "it is logged in")
        server.token = "second"
        server.write_token("second")
        server.cut()
        server.put("pods", "a")
        await wait_for(lambda: "a" in seen.present["Pod"], "the watch goes on with the new token")
        assert await kube.list("Pod", "team-a"), "and so do the other calls"


async def test_a_token_that_stays_refused_is_an_error(tmp_path: Path) -> None:
    async with api_server(tmp_path) as (server, kube):
        server.token = "unknown"
        with pytest.raises(ApiError) as caught:
            await kube.list("Pod", "team-a")
        assert caught.value.status == 401


async def test_nothing_is_changed_by_one_that_may_not_act(tmp_path: Path) -> None:
    server = ApiServer(tmp_path)
    async with server.kube(may_act=lambda: False) as kube:
        await kube.list("Pod", "team-a")
        with pytest.raises(ApiError, match="no longer leads"):
            await kube.delete("Pod", "team-a", "a")


@pytest.mark.parametrize("status", [0, 200, 404, 410, 429, 500, 503])
def test_an_api_server_in_trouble_is_no_reason_to_restart(status: int) -> None:
    pulse = Pulse(0.0)
    for second in range(0, 600, 20):
        assert not pulse.is_dead(float(second))
        pulse.answered(float(second), status)


@pytest.mark.parametrize("status", [401, 403])
def test_a_watch_that_stays_refused_is_dead_within_a_minute(status: int) -> None:
    pulse = Pulse(0.0)
    for second in range(0, 60, 5):
        pulse.answered(float(second), status)
    assert pulse.is_dead(60.0)
    pulse.answered(61.0, 200)
    assert not pulse.is_dead(61.0)


def test_an_idle_watch_is_not_dead() -> None:
    """Between two requests are at most a silent stream, an attempt that gets no answer, and a pause."""
    assert STREAM_S + 5 + 10 + max(PAUSES_S) < DEAD_S < 60


def test_each_namespace_has_its_watches() -> None:
    assert {path.rpartition("/")[2] for path in watched_paths((), fronts=False)} == set(KINDS)
    assert {path.rpartition("/")[2] for path in watched_paths((), fronts=True)} == set(ALL)
    assert "/apis/serving.sponge.dev/v1alpha1/spongeservices" in watched_paths((), fronts=False)
    assert "/api/v1/namespaces/b/pods" in watched_paths(("a", "b"), fronts=False)
    assert len(watched_paths(("a", "b"), fronts=False)) == 2 * len(KINDS)


async def test_health_fails_with_one_dead_watch_and_says_which(tmp_path: Path) -> None:
    now = 0.0
    pulses = Pulses(["/api/v1/pods", "/apis/apps/v1/deployments"], lambda: now)
    async with Health(0) as health:
        assert health.verdict()[0] == 200, "one that waits watches nothing"
        health.pulses = pulses
        now = 40.0
        pulses.answered("/apis/apps/v1/deployments", 200)
        pulses.answered("/unknown", 200)
        assert health.verdict() == (200, {"alive": True, "leads": False, "deadWatches": []})
        now = 55.0
        assert health.verdict() == (503, {"alive": False, "leads": False, "deadWatches": ["/api/v1/pods"]})


async def test_each_watch_is_heard(tmp_path: Path) -> None:
    async with api_server(tmp_path) as (_server, kube), watching(kube) as seen:
        heard: set[str] = set()
        answered = seen.pulses.answered
        seen.pulses.answered = lambda path, status: (heard.add(path), answered(path, status))  # type: ignore[assignment, func-returns-value]
        await wait_for(lambda: set(watched_paths(("team-a",), fronts=True)) <= heard, "each watch is heard by its path")
        assert seen.pulses.dead() == []
