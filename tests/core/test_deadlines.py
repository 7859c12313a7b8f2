"""Deadlines from headers, as tables."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sponge_core.client_clock import ENOUGH, ClientClock
from sponge_core.deadlines import Arrival, BadHeaderError, Claims, Due, SloPolicy, resolve

POLICY = SloPolicy(1.0, {"gold": 0.3, "bronze": 5.0})
ARRIVED, WALL = 100.0, 1_700_000_000.0

ORDER = [
    ({"x-sponge-slo-ms": "250"}, 0.25),
    ({"x-llm-d-slo-ttft-ms": "260"}, 0.26),
    ({"x-slo-ttft-ms": "280"}, 0.28),
    ({"x-sponge-slo-class": "gold"}, 0.3),
    ({"x-request-timeout-seconds": "0.7"}, 0.7),
    ({"x-envoy-expected-rq-timeout-ms": "800"}, 0.8),
    ({"grpc-timeout": "900m"}, 0.9),
    ({}, 1.0),
]


def due(
    headers: dict[str, str], policy: SloPolicy = POLICY, clocks: Sequence[ClientClock] = (), later_s: float = 0.0
) -> Due:
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    return resolve(Arrival.of(encoded, ARRIVED + later_s, WALL + later_s, clocks=clocks), policy)


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_most_specific_header_wins(first: int) -> None:
    headers = {name: value for entry, _ in ORDER[first:] for name, value in entry.items()}
    assert due(headers).deadline == pytest.approx(ARRIVED + ORDER[first][1])


@pytest.mark.parametrize(
    ("headers", "limit_s"),
    [
        ({}, 0.2),
        ({"grpc-timeout": "1S"}, 0.2),
        ({"x-request-timeout-seconds": "3"}, 0.2),
        ({"x-sponge-slo-class": "gold"}, 0.3),
        ({"x-slo-ttft-ms": "70"}, 0.07),
        ({"x-sponge-slo-ms": "50"}, 0.05),
    ],
)
def test_a_timeout_in_the_body_ranks_below_the_slo_headers_only(headers: dict[str, str], limit_s: float) -> None:
    assert due(headers).with_body_timeout(200_000, Claims()).limit_s == pytest.approx(limit_s)


@pytest.mark.parametrize(
    ("text", "limit_s"), [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("500000u", 0.5), ("99999999n", 0.1)]
)
def test_grpc_timeout_units(text: str, limit_s: float) -> None:
    assert due({"grpc-timeout": text}).limit_s == pytest.approx(limit_s)


@pytest.mark.parametrize(
    ("age_s", "sent", "verdict"),
    [
        (0.2, ARRIVED - 0.2, "trusted"),
        (0.0, ARRIVED, "trusted"),
        (-0.04, ARRIVED, "trusted"),
        (-0.06, ARRIVED, "future"),
        (1.9, ARRIVED - 1.9, "trusted"),
        (2.1, ARRIVED, "stale"),
        (61.0, ARRIVED, "stale"),
    ],
)
def test_the_send_time_counts_when_it_is_plausible(age_s: float, sent: float, verdict: str) -> None:
    result = due({"x-sponge-sent-at": f"{WALL - age_s:.3f}"})
    assert result.sent == pytest.approx(sent)
    assert result.sent_at == verdict
    assert result.deadline == pytest.approx(sent + 1.0)


def test_the_class_is_kept_for_statistics_even_when_a_number_takes_precedence() -> None:
    result = due({"x-sponge-slo-class": "gold", "x-sponge-slo-ms": "120"})
    assert result.slo_class == "gold"
    assert result.limit_s == pytest.approx(0.12)
    assert due({}).slo_class == "default"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-sponge-slo-ms": "soon"},
        {"x-sponge-slo-ms": "0"},
        {"x-sponge-slo-ms": "-5"},
        {"x-sponge-slo-ms": "nan"},
        {"x-request-timeout-seconds": "1_000"},
        {"x-sponge-slo-ms": "1e12"},
        {"x-sponge-slo-class": "platinum"},
        {"x-request-timeout-seconds": ""},
        {"x-envoy-expected-rq-timeout-ms": "inf"},
        {"grpc-timeout": "5"},
        {"grpc-timeout": "m"},
        {"grpc-timeout": "123456789m"},
        {"grpc-timeout": "-5m"},
        {"grpc-timeout": "0S"},
        {"x-sponge-sent-at": "yesterday"},
    ],
)
def test_an_invalid_header_is_named(headers: dict[str, str]) -> None:
    (name,) = headers
    with pytest.raises(BadHeaderError, match=name):
        due(headers)


def test_an_invalid_header_is_refused_even_where_another_takes_precedence() -> None:
    with pytest.raises(BadHeaderError, match="grpc-timeout"):
        due({"x-sponge-slo-ms": "100", "grpc-timeout": "whenever"})


@pytest.mark.parametrize("nothing", [0, 0.0])
@pytest.mark.parametrize(("headers", "limit_s"), ORDER)
def test_a_body_timeout_of_zero_changes_nothing(headers: dict[str, str], limit_s: float, nothing: float) -> None:
    assert due(headers).with_body_timeout(nothing, Claims()).limit_s == pytest.approx(limit_s)


@pytest.mark.parametrize("timeout", ["1000", None, True, -1, 4e12, float("nan"), [5]])
def test_an_invalid_body_timeout_is_refused(timeout: object) -> None:
    with pytest.raises(BadHeaderError, match=r"parameters\.timeout"):
        due({}).with_body_timeout(timeout, Claims())


@pytest.mark.parametrize("offset_s", [-60.0, -5.0, -2.5, 2.1, 5.0, 60.0])
def test_a_wrong_clock_gets_a_sensible_deadline_from_the_first_request_on(offset_s: float) -> None:
    """The way takes 50 to 150 ms; what is charged of it is never more than that."""
    clock = ClientClock()
    for n, way_s in enumerate((0.1, 0.05, 0.15)):
        sent = f"{WALL + n - way_s - offset_s:.3f}"
        found = due({"x-sponge-sent-at": sent}, clocks=[clock], later_s=float(n))
        assert found.sent_at == ("behind" if offset_s > 0 else "future")
        assert 0.0 <= ARRIVED + n - found.sent <= way_s + 1e-3


def test_a_clock_that_costs_every_request_its_time_is_learnt_by_client_or_connection() -> None:
    headers = {"x-sponge-sent-at": f"{WALL - 1.2:.3f}"}
    mine, shared = ClientClock(), ClientClock()
    shared.observe(ARRIVED, 0.01)  # another client behind the same address
    verdicts = [due(headers, clocks=[shared, mine]) for _ in range(ENOUGH)]
    assert [found.sent_at for found in verdicts] == ["trusted"] * (ENOUGH - 1) + ["behind"]
    assert verdicts[-1].deadline == pytest.approx(ARRIVED + 1.0, abs=2e-3)


def test_a_client_that_is_slow_once_is_believed() -> None:
    clock = ClientClock()
    for age_s in (*(0.1,) * ENOUGH, 1.5):
        found = due({"x-sponge-sent-at": f"{WALL - age_s:.3f}"}, clocks=[clock])
    assert found.sent_at == "trusted"
    assert found.sent == pytest.approx(ARRIVED - 1.5, abs=2e-3)


BOUNDED = SloPolicy(1.0, {"gold": 0.01, "bronze": 50.0}, Claims(shortest_s=0.02, longest_s=10.0, oldest_s=0.5))


@pytest.mark.parametrize(
    ("headers", "limit_s"),
    [
        ({"x-sponge-slo-ms": "0.05"}, 0.02),
        ({"x-request-timeout-seconds": "0.00005"}, 0.02),
        ({"grpc-timeout": "1u"}, 0.02),
        ({"x-sponge-slo-ms": "25"}, 0.025),
        ({"x-sponge-slo-ms": "3000000"}, 10.0),
        ({"grpc-timeout": "1H"}, 10.0),
        ({"x-sponge-slo-class": "gold"}, 0.01),  # the server's own
        ({"x-sponge-slo-class": "bronze"}, 50.0),
        ({}, 1.0),
    ],
)
def test_a_client_may_claim_no_more_than_the_settings_allow(headers: dict[str, str], limit_s: float) -> None:
    assert due(headers, BOUNDED).limit_s == pytest.approx(limit_s)


@pytest.mark.parametrize(("timeout_us", "limit_s"), [(1, 0.02), (30_000, 0.03), (3_000_000_000, 10.0)])
def test_a_timeout_in_the_body_is_bounded_too(timeout_us: int, limit_s: float) -> None:
    assert due({}, BOUNDED).with_body_timeout(timeout_us, BOUNDED.claims).limit_s == pytest.approx(limit_s)


@pytest.mark.parametrize(("age_s", "verdict"), [(0.4, "trusted"), (0.6, "stale")])
def test_how_old_a_send_time_may_be_is_a_setting(age_s: float, verdict: str) -> None:
    assert due({"x-sponge-sent-at": f"{WALL - age_s:.3f}"}, BOUNDED).sent_at == verdict
