"""What a front that works and one whose pods take turns, as behind kube-proxy, make of the same requests while a part
fails: the real picker, Envoy and servers. The front must answer as many at least."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from front_kit import FrontProcess, answered, servers
from late_reports import LateReports
from server_process import ServerProcess, eventually

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PATIENT = {"x_sponge_slo_ms": "60000"}
"""A deadline that no machine is too slow for: what is counted is where requests go, and whether they are answered."""

PICK_TIMEOUT_MS = 2000
"""Not a matter of these tests, except where the picker hangs."""


@contextlib.contextmanager
def in_turn(pods: Sequence[ServerProcess]) -> Iterator[FrontProcess]:
    """Context of a front without a picker."""
    with FrontProcess(pods, pick_timeout_ms=PICK_TIMEOUT_MS) as front:
        front.picker.kill()
        eventually(lambda: front.healthy("picker") == 0)
        yield front


def statuses(front: FrontProcess, count: int, command: int = 0) -> list[int]:
    """One request after the other."""
    return [front.command(command, **PATIENT).status for _ in range(count)]


def burst(front: FrontProcess, count: int, command: int) -> list[int]:
    """All at once."""
    with ThreadPoolExecutor(count) as pool:
        return [each.status for each in pool.map(lambda _: front.command(command, **PATIENT), range(count))]


def shares(pods: Sequence[ServerProcess], send: Callable[[], list[int]]) -> tuple[list[int], list[int]]:
    """The statuses of the requests that `send` sends, and how many of them each pod has answered."""
    before = [answered(pod) for pod in pods]
    found = send()
    return found, [answered(pod) - count for pod, count in zip(pods, before, strict=True)]


def test_a_picker_that_hangs_leaves_what_turns_give(pods: list[ServerProcess]) -> None:
    with FrontProcess(pods, pick_timeout_ms=200) as front:
        front.picker.send_signal(signal.SIGSTOP)
        found, each = shares(pods, lambda: statuses(front, 8) + burst(front, 8, 0))
    assert found == [200] * 16
    # Envoy begins its turns anew when it has looked at the pods' health.
    assert sum(each) == 16
    assert min(each) >= 4


def test_reports_that_are_5_s_old_mislead_nobody(pods: list[ServerProcess]) -> None:
    busy, other = pods

    def bursts(front: FrontProcess) -> list[int]:
        return [status for _ in range(4) for status in burst(front, 8, 400)]

    with in_turn(pods) as turns:
        by_turns, _ = shares(pods, lambda: bursts(turns))
    with LateReports(busy.control, 5.0) as first, LateReports(other.control, 5.0) as second:
        controls = [first.address, second.address]
        with FrontProcess(pods, controls=controls, pick_timeout_ms=PICK_TIMEOUT_MS) as front:
            with ThreadPoolExecutor(16) as pool:
                before = [pool.submit(busy.command, 2000, **PATIENT)]
                eventually(lambda: busy.ask("/control/v1/state").json["threads_running"] == 1)
                before += [pool.submit(busy.command, 0, **PATIENT) for _ in range(15)]
                assert [each.result().status for each in before] == [200] * 16
            # All are answered, but the front hears that they wait.
            eventually(lambda: first.waiting() == 15)
            by_rule, each = shares(pods, lambda: bursts(front))
    assert by_rule == by_turns == [200] * 32
    # It believes the reports until its own requests show how old they are.
    assert min(each) >= 8


def test_a_pod_that_errs_at_once_costs_less_than_its_turns(pods: list[ServerProcess], tmp_path: Path) -> None:
    with servers(tmp_path, 1, model="commanded_model:ailing") as ailing:
        mixed = [pods[0], *ailing]
        with in_turn(mixed) as turns:
            by_turns = statuses(turns, 40, command=1)
        with FrontProcess(mixed, pick_timeout_ms=PICK_TIMEOUT_MS) as front:
            by_rule = statuses(front, 40, command=1)
            counts = {"answered": by_rule.count(200), "failed": by_rule.count(500)}
            expected = {ending: count for ending, count in counts.items() if count}  # it need not be sent any
            # The picker counts a request shortly after its client has the answer.
            eventually(lambda: front.endings() == expected)
    assert set(by_turns) == {200, 500}
    # It fails twice, and then once each time that it is tried again: after 1 s, 2 s, 4 s and so on.
    assert by_rule.count(500) * 2 <= by_turns.count(500)
