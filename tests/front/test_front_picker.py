"""Which pod a request's headers lead to, and what its end tells; with made-up reports and clocks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sponge_core.edf_queue import Request
from sponge_core.routing.interface import PodView
from sponge_core.routing.pod_load import PodLoad
from sponge_core.routing.pod_table import Ending
from sponge_front.picker import Picker, ending_of
from sponge_front.pods import Pod

WALL = 1_800_000_000.0
PODS = [Pod(name, f"10.0.0.{number}", 8080, 8081, 9090) for number, name in enumerate("abc", 1)]
REST = {b":method": b"POST", b":path": b"/v2/models/m/infer", b"content-type": b"application/json"}
RPC = {
    b":method": b"POST",
    b":path": b"/inference.GRPCInferenceService/ModelInfer",
    b"content-type": b"application/grpc",
}


class Recording:
    """A rule that chooses the pod with the shortest queue, the first of several, and records the requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.views: Sequence[PodView] = ()

    def choose(self, now: float, request: Request, pods: Sequence[PodView]) -> int | None:
        self.requests.append(request)
        self.views = pods
        queues = [(len(pod.sent) + (pod.load.waiting if pod.load else 0), index) for index, pod in enumerate(pods)]
        return min(queues)[1] if queues else None


class Site:
    def __init__(self, pods: Sequence[Pod] = PODS) -> None:
        self.now = 100.0
        self.rule = Recording()
        self.picker = Picker("front", self.rule, clock=lambda: self.now, wall_clock=lambda: WALL + self.now)
        self.picker.keep(pods)

    @property
    def request(self) -> Request:
        """The last one that the rule was asked about."""
        return self.rule.requests[-1]


def load(waiting: int = 0, received: int = 0, **slo_s: float) -> PodLoad:
    return PodLoad(
        now_s=1.0,
        accepting=True,
        cores_milli=1000,
        most_milli=1000,
        batch_cap=8,
        lanes=1,
        slack_s=[0.5] * waiting,
        had_s=[1.0] * waiting,
        slo_s={name.strip("_"): value for name, value in slo_s.items()},
        received={"front": received},
    )


def test_the_chosen_pod_is_named_with_its_port_and_the_requests_number() -> None:
    site = Site()
    site.picker.reported("a", load(waiting=3))
    site.picker.reported("b", load(waiting=1))
    site.picker.reported("c", load(waiting=2))
    first, second = site.picker.pick(REST), site.picker.pick(RPC)
    assert first is not None
    assert second is not None
    assert (first.address, first.sender) == ("10.0.0.2:8080", "front 1")
    assert (second.address, second.sender) == ("10.0.0.2:8081", "front 2")


def test_requests_on_their_way_count_until_the_pod_reports_them() -> None:
    site = Site(PODS[:2])
    picks = [site.picker.pick(REST) for _ in range(4)]
    assert [pick.address[:8] for pick in picks if pick] == ["10.0.0.1", "10.0.0.2"] * 2
    site.picker.reported("a", load(waiting=0, received=2))
    again = site.picker.pick(REST)
    assert again is not None
    assert again.address == "10.0.0.1:8080"


@pytest.mark.parametrize(
    ("headers", "deadline_s", "sent_ago_s"),
    [
        ({}, 2.0, 0.0),
        ({b"x-sponge-slo-ms": b"300"}, 0.3, 0.0),
        ({b"x-sponge-slo-class": b"gold"}, 0.5, 0.0),
        ({b"x-sponge-sent-at": b"%.3f" % (WALL + 100.0 - 0.4)}, 1.6, 0.4),
        ({b"grpc-timeout": b"700m"}, 0.7, 0.0),
        ({b"x-sponge-slo-ms": b"soon"}, 2.0, 0.0),
        ({b"x-sponge-slo-class": b"tin"}, 2.0, 0.0),
    ],
)
def test_the_deadline_is_read_as_the_server_reads_it(
    headers: dict[bytes, bytes], deadline_s: float, sent_ago_s: float
) -> None:
    site = Site()
    site.picker.reported("a", load(_=2.0, gold=0.5))
    site.picker.pick(REST | headers)
    assert site.request.deadline - site.now == pytest.approx(deadline_s, abs=1e-6)
    assert site.now - site.request.sent == pytest.approx(sent_ago_s, abs=1e-6)


def test_before_any_report_a_pod_is_chosen_too() -> None:
    site = Site()
    assert site.picker.pick(REST) is not None
    assert site.request.deadline > site.now


@pytest.mark.parametrize(
    "headers",
    [
        REST | {b":method": b"GET"},
        REST | {b":path": b"/v2/repository/models/m/load"},
        RPC | {b":path": b"/inference.GRPCInferenceService/ServerReady"},
        {},
    ],
)
def test_what_is_no_inference_goes_to_any_pod(headers: dict[bytes, bytes]) -> None:
    site = Site()
    assert site.picker.pick(headers) is None
    assert site.rule.requests == []


def test_where_any_pod_will_do_they_take_turns_and_nothing_is_counted() -> None:
    site = Site()
    get = REST | {b":method": b"GET"}
    assert sorted(site.picker.any_pod(get) or "" for _ in range(6)) == sorted(pod.http for pod in PODS * 2)
    assert site.picker.any_pod(RPC, {"10.0.0.2"}) == "10.0.0.2:8081"
    assert site.picker.any_pod(get, set()) is None
    assert Site([]).picker.any_pod(get) is None
    assert site.rule.requests == []


def test_a_pod_that_fails_is_avoided_also_where_any_will_do() -> None:
    site = Site()
    assert (site.picker.avoided(), site.picker.oldest_report_s()) == (0, 0.0)
    for _ in range(2):
        pick = site.picker.pick(REST, {"10.0.0.1"})
        assert pick is not None
        site.picker.ended(pick, "failed")
    assert site.picker.avoided() == 1
    assert {site.picker.any_pod(REST) for _ in range(6)} == {pod.http for pod in PODS[1:]}
    site.picker.reported("b", load())
    site.now += 2.0
    site.picker.reported("c", load())
    assert site.picker.oldest_report_s() == 2.0


@pytest.mark.parametrize("path", [b"/v2/models/m/versions/1/infer", b"/v1/embeddings", b"/v2/models/m/infer?x=/y"])
def test_every_route_of_inference_is_picked(path: bytes) -> None:
    assert Site().picker.pick(REST | {b":path": path}) is not None


def test_without_pods_nothing_is_chosen() -> None:
    assert Site([]).picker.pick(REST) is None


def test_a_pod_that_is_gone_is_forgotten() -> None:
    site = Site()
    first = site.picker.pick(REST)
    site.picker.keep(PODS[1:])
    site.picker.reported("a", load(waiting=0))
    assert first is not None
    site.picker.ended(first, "answered")
    second = site.picker.pick(REST)
    assert second is not None
    assert second.address == "10.0.0.2:8080"


def test_a_client_that_gives_up_after_its_deadline_has_waited_for_the_pod() -> None:
    site = Site()
    for waited_s, ending in ((0.1, "cancelled"), (5.0, "failed")):
        pick = site.picker.pick(REST | {b"x-sponge-slo-ms": b"300"})
        assert pick is not None
        site.now += waited_s
        assert site.picker.ended(pick, "cancelled") == ending


def test_pods_that_are_silent_do_not_count_as_reporting() -> None:
    site = Site()
    site.picker.reported("a", load())
    site.now += 2.0
    site.picker.reported("b", load())
    assert site.picker.reporting(3.0) == 2
    assert site.picker.reporting(1.0) == 1


CHOSEN, OTHER = "10.0.0.1:8080", "10.0.0.2:8080"


@pytest.mark.parametrize(
    ("headers", "answered_by", "ending"),
    [
        ({b":status": b"200"}, CHOSEN, "answered"),
        ({b":status": b"200"}, OTHER, "refused"),  # by the first pod: another has answered
        ({b":status": b"400"}, CHOSEN, "answered"),
        ({b":status": b"422"}, CHOSEN, "answered"),
        ({b":status": b"503", b"x-sponge-elsewhere": b"1"}, CHOSEN, "refused"),
        ({b":status": b"503"}, CHOSEN, "refused"),
        ({b":status": b"504"}, CHOSEN, "refused"),
        ({b":status": b"503", b"x-sponge-elsewhere": b"1"}, OTHER, "refused"),  # by one after the other
        ({b":status": b"504"}, OTHER, "refused"),
        ({b":status": b"503"}, "", "failed"),  # Envoy's own: no pod gave an answer
        ({b":status": b"500"}, CHOSEN, "failed"),
        ({b":status": b"200", b"grpc-status": b"0"}, CHOSEN, "answered"),
        ({b":status": b"200", b"grpc-status": b"3"}, CHOSEN, "answered"),
        ({b":status": b"200", b"grpc-status": b"4"}, CHOSEN, "refused"),
        ({b":status": b"200", b"grpc-status": b"14"}, CHOSEN, "refused"),
        ({b":status": b"200", b"grpc-status": b"14"}, "", "failed"),
        ({b":status": b"200", b"grpc-status": b"13"}, CHOSEN, "failed"),
    ],
)
def test_the_response_tells_how_the_request_ended(
    headers: dict[bytes, bytes], answered_by: str, ending: Ending
) -> None:
    assert ending_of(headers, CHOSEN, answered_by) == ending
