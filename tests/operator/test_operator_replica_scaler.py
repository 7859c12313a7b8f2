"""From what servers say to the number of pods: what serves, starts or is lost, what nodes lack, how long a start is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_operator_models import body
from test_operator_status import pod_state, snapshot

from sponge_core.control_api import FrontierPoint
from sponge_operator.autoscale.pod_state import PodState
from sponge_operator.autoscale.replica_scaler import ColdStart, PodView, ReplicaScaler, Scaling, view_of
from sponge_operator.resources.model import SpongeService, parse_service

CPU = {"min": "500m", "max": "2", "step": "500m"}
SPEC = {"cpu": CPU, "replicas": {"min": 1, "max": 4}}
EPOCH = 1_767_225_600.0


def service(**changes: Any) -> SpongeService:
    return parse_service(body(**{**SPEC, **changes}))


def view(number: int, load: float | None = 0.5, **changes: Any) -> PodView:
    """A pod that serves, has started within ten seconds, and has the load of so many cores."""
    seen = changes.pop("snapshot", {})
    state = pod_state(f"digits-{number}", snapshot=snapshot(load_cores=load, **seen), node=f"n{number}", **changes)
    return PodView(f"p{number}", state, EPOCH + number, EPOCH + number + 10)


def not_serving(number: int, *, age_s: float = 0.0, is_pending: bool = False, served: bool = False) -> PodView:
    known = snapshot() if served else None
    state = PodState(f"digits-{number}", snapshot=known, in_service=False)
    return PodView(f"p{number}", state, EPOCH - age_s, None, is_pending)


class Looks:
    """Looks of one scaler, a second apart, at a number of pods that stays."""

    def __init__(self, **changes: Any) -> None:
        self.scaler, self.service, self.now, self.asked = ReplicaScaler(10.0), service(**changes), 0.0, 1
        self.spec = self.service.spec

    def go(self, seconds: int, *pods: PodView) -> Scaling:
        """The look that wants another number, or the last one."""
        for _ in range(seconds):
            self.now += 1.0
            seen = self.scaler.look(self.now, EPOCH + self.now, self.service, self.asked, pods)
            if seen.wanted != self.asked:
                return seen
        return seen


def test_the_loads_of_all_pods_add_up_and_start_another_one() -> None:
    looks = Looks()
    looks.asked = 2
    assert looks.go(60, view(1, 1.5), view(2, 1.5)).reason == "hold"
    seen = looks.go(60, view(1, 2.0), view(2, 2.0))
    assert (seen.wanted, seen.reason, seen.load_cores, seen.has_cores) == (3, "load", 4.0, 4.0)


def test_while_a_server_in_service_does_not_answer_the_number_stays() -> None:
    looks = Looks()
    looks.asked = 2
    silent = view(2, reachable=False)
    seen = looks.go(600, view(1, 9.0), silent)
    assert (seen.wanted, seen.stale) == (2, ("digits-2",))
    of_an_earlier_version = looks.go(600, view(1, 9.0), view(2, None))
    assert (of_an_earlier_version.wanted, of_an_earlier_version.stale) == (2, ("digits-2",))
    assert looks.go(600).wanted == 2, "no pod serves"


@pytest.mark.parametrize(
    ("pod", "lost"),
    [
        (not_serving(2), 0),
        (not_serving(2, age_s=60), 0),
        (not_serving(2, age_s=1000, is_pending=True), 0),
        (not_serving(2, age_s=1000), 1),
        (not_serving(2, served=True), 1),
    ],
    ids=["young", "starting", "no-node", "overdue", "served-before"],
)
def test_a_pod_that_does_not_serve_is_starting_or_lost(pod: PodView, lost: int) -> None:
    looks = Looks()
    looks.asked = 2
    seen = looks.go(1, view(1), pod)
    assert (seen.serving, seen.starting, seen.lost) == (1, 1 - lost, lost)
    assert (looks.go(60, view(1, 2.5), pod).wanted == 3) == bool(lost)


def test_a_new_version_that_does_not_start_asks_for_no_other_pod() -> None:
    looks = Looks()
    assert looks.go(60, view(1, 0.9), not_serving(2, age_s=1000), not_serving(3, age_s=1000)).reason == "hold"


def test_what_a_node_cannot_give_counts_also_while_nobody_asks_for_it() -> None:
    looks = Looks()
    assert looks.go(60, view(1, 1.2)).reason == "hold"
    full = view(1, 1.2, most_milli=1000)
    looks.go(1, full)
    seen = looks.go(60, view(1, 1.2))
    assert (seen.reason, seen.has_cores) == ("ceiling", 1.0)
    looks = Looks()
    looks.go(1, full)
    assert looks.go(1, view(1, 1.2, actuated_milli=1500)).has_cores == 2.0, "it has more than that by now"
    looks.go(1, full)
    assert looks.go(1, view(1, 0.1, actuated_milli=500)).has_cores == 1.0
    looks.now += 1000
    assert looks.go(1, view(1, 0.1, actuated_milli=500)).has_cores == 2.0


def missing(share: float, load: float = 0.8) -> PodView:
    """A pod that misses a share of 20 requests at its largest size, and more at smaller ones."""
    frontier = [
        FrontierPoint(cores_milli=milli, batch_cap=8, misses=min(20.0, 20 * share * 2000 / milli))
        for milli in (500, 1000, 1500, 2000)
    ]
    return view(1, load, snapshot={"frontier": frontier, "arrival_rate_rps": 20.0})


@pytest.mark.parametrize(("share", "reason"), [(0.0, "hold"), (0.009, "hold"), (0.2, "missed")])
def test_misses_at_the_largest_size_count_where_they_break_the_target(share: float, reason: str) -> None:
    assert Looks().go(120, missing(share)).reason == reason


def test_requests_that_are_refused_for_the_load_count_as_missed() -> None:
    refusing = view(1, 0.8, snapshot={"arrival_rate_rps": 15.0, "refused_rps": 5.0})
    assert Looks().go(120, refusing).reason == "missed"


def test_a_rise_starts_a_pod_before_it_is_needed() -> None:
    looks = Looks()
    for second in range(60):
        load = 0.5 + 0.05 * second
        seen = looks.go(1, view(1, load))
        if seen.wanted == 2:
            break
    assert (seen.wanted, seen.reason) == (2, "ahead")
    assert load < 1.8


def idle(number: int, seconds: float) -> PodView:
    return view(number, 0.0, snapshot={"idle_for_s": seconds})


def test_all_pods_go_when_none_has_had_a_request_for_long_and_one_comes_when_somebody_waits() -> None:
    looks = Looks(replicas={"min": 0, "max": 4}, idle={"removeAfter": "1m"})
    assert looks.go(1, idle(1, 59)).wanted == 1
    seen = looks.go(1, idle(1, 60))
    assert (seen.wanted, seen.reason) == (0, "idle")
    looks.asked = 2
    assert looks.go(1, idle(1, 60), idle(2, 1)).wanted == 2
    looks.asked = 0
    assert looks.go(1).wanted == 0
    looks.service = looks.service.model_copy(update={"woken": ("2026-01-01T00:00:00Z",)})
    seen = looks.go(1)
    assert (seen.wanted, seen.reason) == (1, "woken")
    looks.asked = 1
    assert looks.go(1, idle(1, 100)).wanted == 1, "who has asked for it may not have sent anything yet"
    looks.now += 60.0
    assert looks.go(1, idle(1, 100)).wanted == 0
    looks.asked = 0
    assert looks.go(1).wanted == 0
    looks.service = looks.service.model_copy(update={"woken": ("2026-01-01T00:00:00Z", "soon")})
    assert looks.go(1).wanted == 1, "a time that is not understood counts"


def test_more_pods_that_the_spec_asks_for_wait_for_nobody() -> None:
    looks = Looks(replicas={"min": 3, "max": 4})
    seen = looks.go(1, view(1))
    assert (seen.wanted, seen.reason) == (3, "range")


def test_pods_stay_where_none_may_be_no_number() -> None:
    assert Looks().go(300, idle(1, 1e6)).wanted == 1


def test_the_pod_that_goes_is_on_a_full_node_or_beside_another_or_the_newest() -> None:
    looks = Looks()
    first, second, third = view(1), view(2), view(3)
    assert looks.scaler.leaving([first, second, third], looks.spec) is third
    beside = replace(first, state=replace(first.state, node="n2"))
    assert looks.scaler.leaving([beside, second, third], looks.spec) is second
    looks.go(1, view(1, most_milli=1000), second, third)
    assert looks.scaler.leaving([first, second, third], looks.spec) is first
    assert looks.scaler.leaving([first, not_serving(2)], looks.spec) is None, "that one goes by itself"


def test_a_cold_start_is_the_median_of_the_newest_and_each_pod_counts_once() -> None:
    start = ColdStart()
    assert start.seconds == 20.0
    assert ColdStart(7.0).seconds == 7.0
    many = [PodView(f"p{n}", PodState("x"), 100.0, 100.0 + took) for n, took in enumerate((30, 30, 30, 8, 6, 9, 7, 8))]
    for _ in range(3):
        start.observe(many)
    assert start.seconds == 8.0
    start.observe([*many[1:], PodView("new", PodState("x"), 0.0, 1.0)])
    assert start.seconds == 7.0
    start.observe([])
    assert start.seconds == 7.0


def test_a_pod_of_the_api_server() -> None:
    pod = {
        "metadata": {"uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:12Z"}],
            "containerStatuses": [{"restartCount": 0}],
        },
    }
    seen = view_of(pod, PodState("x"))
    assert (seen.created_s, seen.ready_s, seen.is_pending) == (EPOCH, EPOCH + 12, False)
    pod["status"]["containerStatuses"] = [{"restartCount": 1}]  # type: ignore[index]
    assert view_of(pod, PodState("x")).ready_s is None
    assert view_of({"metadata": {"uid": "u"}, "status": {"phase": "Pending"}}, PodState("x")).is_pending
