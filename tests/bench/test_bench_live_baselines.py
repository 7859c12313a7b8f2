"""The live comparison's own reckoning: what pods cost, what a gateway sees, what fits, and which run comes next."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bench.live_baselines.addons import MODULE
from bench.live_baselines.autoscalers import horizontal, vertical
from bench.live_baselines.campaign import FIXED_SIZES, KIND, fixed_milli, next_fixed, pieces
from bench.live_baselines.piece import scraped_s
from bench.live_baselines.pod_log import PodLog
from bench.live_baselines.replay import Virtual, assumed, replay, seen_in, service_of, start_of
from bench.live_baselines.report import Row, best_of, verdicts
from bench.live_baselines.rules import Gateway, RuleDriver, fitting_replicas, fitting_sizes
from bench.live_baselines.schedules import SCHEDULES, Load, Target, requests_of
from bench.live_baselines.servers import NAME, plain_server
from bench.live_baselines.systems import SYSTEMS, fixed
from bench.serving.ledger import Ledger
from hypothesis import given
from hypothesis import strategies as st

from sponge_client.schedule import Schedule, Shot
from sponge_core.edf_queue import Request
from sponge_operator.clients.kube import Kube
from sponge_operator.resources.manifests import CONTAINER, SERVICE_LABEL
from sponge_profiles.profile import load_profile
from sponge_simulator.scaling.interface import Observation, Size

TARGET = Target()
MODEL = load_profile(TARGET.profile).latency_model()
SEEN = assumed(TARGET, MODEL)


def load_of(name: str = "bursts", seconds: float = 12.0) -> Load:
    return SCHEDULES[name](TARGET, seconds, 1, os.environ)


def event(
    kind: str, uid: str, cpu: str, *, ready: bool = True, bound: bool = True, restarts: int = 0
) -> dict[str, Any]:
    return {
        "type": kind,
        "object": {
            "kind": "Pod",
            "metadata": {"uid": uid, "name": uid, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                **({"nodeName": "node"} if bound else {}),
                "containers": [{"name": CONTAINER, "resources": {"limits": {"cpu": cpu}}}],
            },
            "status": {
                "conditions": [{"type": "Ready", "status": str(ready)}],
                "containerStatuses": [{"restartCount": restarts}],
            },
        },
    }


def test_a_pod_costs_its_limit_from_its_node_to_its_end() -> None:
    log = PodLog()
    log.see(0.0, event("ADDED", "a", "500m"))
    log.see(12.0, event("MODIFIED", "a", "1"))
    log.see(14.0, event("ADDED", "b", "500m", ready=False, bound=False))
    log.see(15.0, event("MODIFIED", "b", "500m", ready=False))
    log.see(17.0, event("MODIFIED", "b", "500m", restarts=1))
    assert (log.held_milli, len(log.serving)) == (1500, 2)
    log.see(18.0, event("DELETED", "b", "500m"))
    account = log.account(10.0, 20.0)
    assert account.mean_cores == pytest.approx((2 * 0.5 + 8 * 1.0 + 3 * 0.5) / 10)
    assert (account.resizes, account.started, account.restarts) == (1, 1, 1)
    assert account.cold_starts_s == (3.0,)
    assert account.steps[0] == (0.0, 0.5)
    assert account.steps[-1] == (10.0, 1.0)


def test_nothing_of_before_the_run_counts_as_its_own() -> None:
    log = PodLog()
    log.see(0.0, event("ADDED", "a", "500m", ready=False))
    log.see(3.0, event("MODIFIED", "a", "250m"))
    account = log.account(5.0, 10.0)
    assert (account.mean_cores, account.resizes, account.started, account.cold_starts_s) == (0.25, 0, 0, ())


@given(
    spans=st.lists(st.tuples(st.floats(0, 20), st.floats(0.01, 3)), min_size=1, max_size=30),
    every=st.floats(0.1, 30.0),
)
def test_the_gateway_counts_what_is_in_flight_however_seldom_it_is_asked(
    spans: list[tuple[float, float]], every: float
) -> None:
    requests = [Request(i, at, at + 1.0) for i, (at, _) in enumerate(sorted(spans))]
    ends = sorted(at + took for at, took in spans)
    gateway, now, looked = Gateway(requests), 0.0, 0.0
    seen = []
    for now in ends:
        while looked + every <= now:
            looked += every
            seen += gateway.advance(looked)
        gateway.answered(now)
    assert gateway.mean_in_flight(now) * now == pytest.approx(sum(took for _, took in spans))
    assert [*seen, *gateway.advance(now)] == requests
    assert gateway.mean_in_flight(now + 5.0) == 0.0


def test_an_answer_that_comes_before_its_request_is_all_in_leaves_nothing_behind() -> None:
    gateway = Gateway([Request(0, 2.0, 3.0), Request(1, 4.0, 5.0)])
    gateway.answered(1.0)
    assert gateway.mean_in_flight(4.0) == 0.0
    gateway.answered(5.0)
    assert gateway.mean_in_flight(8.0) == 0.25


@pytest.mark.parametrize(
    ("wanted", "present", "held", "replicas"),
    [(3, 1, 500, 3), (3, 1, 1250, 1), (3, 1, 1000, 2), (1, 3, 1500, 1), (2, 1, 1600, 1)],
)
def test_pods_are_added_as_far_as_there_is_room(wanted: int, present: int, held: int, replicas: int) -> None:
    assert fitting_replicas(wanted, present, held, 500, 1500) == replicas


@given(
    wanted=st.sampled_from(FIXED_SIZES),
    held=st.lists(st.sampled_from(FIXED_SIZES), max_size=4),
    room=st.integers(-500, 1500),
)
def test_sizes_never_take_more_than_the_room(wanted: int, held: Sequence[int], room: int) -> None:
    sizes = fitting_sizes(wanted, FIXED_SIZES, held, room)
    assert len(sizes) == len(held)
    assert sum(max(0, new - now) for new, now in zip(sizes, held, strict=True)) <= max(0, room)
    assert all(new == wanted or now <= new < wanted for new, now in zip(sizes, held, strict=True))


class Told:
    """Asks for one size after another, and keeps what it has seen."""

    interval_s, dispatch = 0.01, "fifo"

    def __init__(self, *sizes: Size) -> None:
        self._sizes = list(sizes)
        self.seen: list[Observation] = []
        self.ten = asyncio.Event()

    def arrived(self, now: float, request: Request) -> None:
        """Takes no notice."""

    def plan(self, state: Observation) -> Size:
        self.seen.append(state)
        if len(self.seen) == 10:
            self.ten.set()
        return self._sizes.pop(0) if len(self._sizes) > 1 else self._sizes[0]


class Calls(Kube):
    """Keeps what would be asked of the API server."""

    def __init__(self) -> None:
        self.made: list[object] = []

    async def resize(
        self, pod: Mapping[str, Any], container: str, milli: int | None, memory: int | None = None
    ) -> dict[str, Any]:
        self.made.append(milli)
        return {}

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        self.made.append(patch["spec"]["replicas"])
        return {}


async def test_a_rule_is_carried_out_and_sees_requests_from_when_they_are_sent() -> None:
    log, kube = PodLog(), Calls()
    log.see(0.0, event("ADDED", "a", "500m"))
    policy = Told(Size(0.5, 4, 1), Size(0.5, 4, 3))
    times = iter(0.005 * tick for tick in range(10_000))
    gateway = Gateway([Request(0, 0.02, 1.0)])
    driver = RuleDriver(kube, log, gateway, policy, Size(0.5, 4, 1), FIXED_SIZES, 1500, 500)
    running = asyncio.create_task(driver.run(lambda: next(times)))
    await policy.ten.wait()
    running.cancel()
    assert kube.made == [3]
    first, *_, last = policy.seen
    assert (first.in_flight, first.ready, first.size.replicas) == (0.0, 1, 1)
    assert (last.in_flight, last.size.replicas) == (1.0, 3)


@given(smallest=st.sampled_from((*FIXED_SIZES, 2000)), guess=st.sampled_from(FIXED_SIZES))
def test_the_smallest_fixed_size_is_found_from_any_guess(smallest: int, guess: int) -> None:
    kept: dict[int, bool] = {}
    while (size := next_fixed(kept, guess)) is not None:
        assert size not in kept
        kept[size] = size >= smallest
    good = [size for size, does in kept.items() if does]
    assert min(good, default=2000) == smallest


def test_a_campaign_goes_on_where_it_was(tmp_path: Path) -> None:
    ledger, loads = Ledger(tmp_path / "runs.jsonl"), [load_of()]
    names = ["fixed", "hpa", "sponge"]

    def missing() -> list[str]:
        found = []
        for piece in pieces(ledger, TARGET, loads, names, 1, {"bursts": 500}):
            found.append(piece.name)
            ledger.add(KIND, piece.params, {"in_time": float(piece.name != "fixed-375m")})
            if len(found) == 2:
                break
        return found

    assert missing() == ["fixed-500m", "fixed-375m"]
    ledger = Ledger(tmp_path / "runs.jsonl")
    assert missing() == ["hpa", "sponge"]
    assert missing() == []


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_the_same_for_every_system(name: str) -> None:
    load = load_of(name)
    assert load == load_of(name)
    requests = requests_of(load, 5.0)
    assert len(requests) == len(load.schedule.shots) > 0
    assert [request.arrival for request in requests] == sorted(request.arrival for request in requests)
    assert all(request.sent >= 5.0 and request.arrival >= request.sent for request in requests)
    assert {request.slo_class for request in requests} == ({"400 ms", "1200 ms"} if name == "classes" else {"800 ms"})


def test_plain_servers_are_the_operators_pods_without_the_operator() -> None:
    server = {"image": "example:1", "template": {"spec": {"nodeSelector": {"here": "yes"}}}}
    objects = plain_server(TARGET, 500, 2, server, resized=False)
    assert [each["kind"] for each in objects] == ["ConfigMap", "Secret", "Service", "Deployment"]
    text = json.dumps(objects)
    assert SERVICE_LABEL not in text
    assert "ownerReferences" not in text
    config, _, _, deployment = objects
    assert {config["data"][key] for key in ("startup-cores", "min-cores", "max-cores")} == {"0.5"}
    assert deployment["spec"]["replicas"] == 2
    pod = deployment["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"here": "yes"}
    assert pod["containers"][0]["resources"]["limits"]["cpu"] == "500m"
    resized = plain_server(TARGET, 500, 1, server, resized=True)[0]["data"]
    assert (resized["min-cores"], resized["max-cores"]) == ("0.25", "1.5")


def test_autoscalers_point_at_the_deployment() -> None:
    assert horizontal(TARGET)["spec"]["scaleTargetRef"]["name"] == NAME
    assert horizontal(TARGET)["spec"]["maxReplicas"] == 3
    assert vertical(TARGET)["spec"]["targetRef"]["name"] == NAME
    policy = vertical(TARGET)["spec"]["resourcePolicy"]["containerPolicies"][0]
    assert (policy["containerName"], policy["maxAllowed"]) == (CONTAINER, {"cpu": "1500m"})


def test_the_programs_are_of_the_versions_that_the_table_names() -> None:
    versions = MODULE.versions
    assert versions["k8s.io/autoscaler/vertical-pod-autoscaler"].removeprefix("v") in SYSTEMS["vpa"].settings
    assert versions["sigs.k8s.io/metrics-server"] == "v0.9.0"


@pytest.mark.parametrize("name", [*SYSTEMS, "fixed-750m"])
def test_every_system_runs_in_virtual_time_within_the_cores_of_the_target(name: str) -> None:
    load = load_of()
    system = fixed(fixed_milli(name)) if name not in SYSTEMS else SYSTEMS[name]
    start = start_of(system, service_of(TARGET, load, MODEL, SEEN))
    run = replay(TARGET, load, system, MODEL, SEEN)
    assert 0 < start.cores * start.replicas <= 1.5
    assert 0 < run.mean_cores <= 1.5
    assert run == replay(TARGET, load, system, MODEL, SEEN)


def test_a_fixed_size_costs_what_it_is() -> None:
    run = replay(TARGET, load_of(), fixed(750), MODEL, SEEN)
    assert (run.mean_cores, run.resizes, run.started) == (0.75, 0, 0)


def test_what_was_seen_live_takes_the_place_of_what_was_assumed() -> None:
    quiet = {"batches_s": {}, "resizes_s": [], "overhead_cores": 0.0, "cold_starts_s": []}
    assert seen_in([quiet], SEEN) == SEEN
    told = seen_in(
        [
            {"batches_s": {"1": [0.03], "4": [0.08]}, "resizes_s": [0.05], "overhead_cores": 0.02, "cold_starts_s": []},
            {"batches_s": {"1": [0.04]}, "resizes_s": [], "overhead_cores": 0.04, "cold_starts_s": [12.0, 14.0]},
        ],
        SEEN,
    )
    assert told.evidence.batches_s == {1: (0.03, 0.04), 4: (0.08,)}
    assert (told.evidence.resizes_s, told.cold_start_s) == ((0.05,), 13.0)
    assert told.evidence.overhead_cores == pytest.approx(0.03)


def test_the_best_other_is_the_cheapest_that_keeps_the_target() -> None:
    def row(system: str, in_time: float, cores: float) -> Row:
        return Row("bursts", system, "", {"in_time": in_time, "mean_cores": cores}, Virtual(1.0, {}, cores, 0, 0))

    rows = [row("hpa", 0.98, 0.4), row("fixed-500m", 0.995, 0.5), row("kpa", 1.0, 0.8), row("sponge", 1.0, 0.3)]
    best = best_of(rows, 0.99)
    assert best is not None
    assert best.system == "fixed-500m"
    assert best_of(rows[:1], 0.99) is None
    (said,) = verdicts(rows, 0.99)
    assert said.startswith("bursts: sponge has 0.60 of the cores of fixed-500m")


def test_uploads_count_against_the_deadline() -> None:
    slow = load_of("4g")
    assert slow.uplink is not None
    shots = (Shot(0, 1.0, 0.8, 0),)
    (request,) = requests_of(Load("4g", Schedule(shots, 5.0), slow.uplink, slow.payload_bytes), 0.0)
    assert request.arrival - request.sent == pytest.approx(slow.upload_s(shots[0]))
    assert request.deadline == pytest.approx(1.8)


def test_an_autoscaler_begins_with_the_schedule_and_sees_metrics_in_their_phase() -> None:
    load = load_of("classes", 90.0)
    # Live, metrics-server read the pods 2 s after the begin, and the crest at 22 s was seen at 45 s.
    runs = [replay(TARGET, load, SYSTEMS["hpa"], MODEL, SEEN, scraped_s=at) for at in (2.0, 14.0)]
    assert [run.started for run in runs] == [1, 1]
    assert [run.mean_cores for run in runs] == [pytest.approx(0.5 + 0.5 * (90 - at) / 90, abs=0.002) for at in (45, 30)]


def test_the_phase_of_metrics_is_that_of_their_newest_timestamp() -> None:
    metrics = {"items": [{"timestamp": "2026-11-30T13:49:34Z"}, {"timestamp": "2026-11-30T13:49:49Z"}]}
    began = datetime(2026, 11, 30, 13, 50, 3, tzinfo=UTC).timestamp()
    assert scraped_s(metrics, began) == 1.5
    assert scraped_s({"items": []}, began) is None
