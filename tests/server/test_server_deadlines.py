"""Deadlines from headers, as tables."""

from __future__ import annotations

import pytest

from sponge_server.deadlines import BadHeaderError, Due, SloPolicy, resolve

POLICY = SloPolicy(1.0, {"gold": 0.3, "bronze": 5.0})
ARRIVED, WALL = 100.0, 1_700_000_000.0

ORDER = [
    ({"x-sponge-slo-ms": "250"}, 0.25),
    ({"x-sponge-slo-class": "gold"}, 0.3),
    ({"x-request-timeout-seconds": "0.7"}, 0.7),
    ({"x-envoy-expected-rq-timeout-ms": "800"}, 0.8),
    ({"grpc-timeout": "900m"}, 0.9),
    ({}, 1.0),
]


def due(headers: dict[str, str]) -> Due:
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    return resolve(encoded, ARRIVED, WALL, POLICY)


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
        ({"x-sponge-slo-ms": "50"}, 0.05),
    ],
)
def test_a_timeout_in_the_body_ranks_below_the_slo_headers_only(headers: dict[str, str], limit_s: float) -> None:
    assert due(headers).with_body_timeout(200_000).limit_s == pytest.approx(limit_s)


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
        (59.0, ARRIVED - 59, "trusted"),
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


@pytest.mark.parametrize("timeout", ["1000", None, True, 0, -1, 4e12, [5]])
def test_an_invalid_body_timeout_is_refused(timeout: object) -> None:
    with pytest.raises(BadHeaderError, match=r"parameters\.timeout"):
        due({}).with_body_timeout(timeout)
