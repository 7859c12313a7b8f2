"""The server's test of a request on arrival, in virtual time."""

from __future__ import annotations

import pytest

from sponge_core.dispatch.registry import POLICIES as DISPATCH
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel
from sponge_simulator.admission import is_admitted
from sponge_simulator.fleet import ClusterModel, simulate
from sponge_simulator.scaling.interface import Observation, Service, Size

MODEL = LatencyModel(0.0, 0.05, 0.0, 0.05)  # 100 ms for one, 62.5 ms for each of four
SERVICE = Service(MODEL, slo_s=0.5, rate=10.0, max_batch=4, max_cores=1.0)


@pytest.mark.parametrize(
    ("waiting", "cores", "left_s", "admitted"),
    [
        (0, 1.0, 0.101, True),
        (0, 1.0, 0.099, False),
        (4, 1.0, 0.351, True),  # 250 ms for those before it
        (4, 1.0, 0.349, False),
        (4, 2.0, 0.24, True),  # twice the cores: half the time
        (0, 0.5, 0.19, False),
    ],
)
def test_a_request_is_admitted_if_it_can_be_met_after_those_before_it(
    waiting: int, cores: float, left_s: float, admitted: bool
) -> None:
    queue = EdfQueue([Request(i, 0.0, 0.01, 0.0) for i in range(waiting)] + [Request(9, 0.0, 99.0, 0.0)])
    assert is_admitted(Request(10, 1.0, 1.0 + left_s, 1.0), queue, MODEL, 4, cores) == admitted


class Fixed:
    """One core; keeps the requests that it saw refused."""

    interval_s, dispatch = 0.1, "moldable-edf"

    def __init__(self) -> None:
        self.refused: list[int] = []

    def arrived(self, now: float, request: Request) -> None:
        """Takes no notice."""

    def plan(self, seen: Observation) -> Size:
        self.refused += [request.id for request in seen.refused]
        return Size(1.0, 4)


def test_a_refused_request_is_shed_at_once_and_told_once() -> None:
    sent = [Request(i, 1.0, 1.5 + i / 1000, 1.0) for i in range(20)]
    policy, told = Fixed(), Fixed()
    queued = simulate(sent, SERVICE, policy, DISPATCH["moldable-edf"].make(), ClusterModel(4.0))
    tested = simulate(sent, SERVICE, told, DISPATCH["moldable-edf"].make(), ClusterModel(4.0, admits=is_admitted))
    assert policy.refused == []
    assert told.refused == list(range(20 - len(told.refused), 20))
    assert 0 < len(told.refused) <= tested.shed
    assert tested.in_time + tested.shed == tested.sent == 20
    assert 0 < tested.in_time <= queued.in_time
