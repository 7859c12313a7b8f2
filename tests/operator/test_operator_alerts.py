"""The alerts, by Prometheus' own promtool: what fires after a given history, and what must not."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_kit import program

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"

STEP_S = 30
POD = 'namespace="team",service="digits",pod="digits-6f7c-x2x4z"'
SCRAPED = 'namespace="team",pod="digits-6f7c-x2x4z"'
FAST, SLOW = "SpongeErrorBudgetBurnsFast", "SpongeErrorBudgetBurns"

Phase = tuple[float, float, float]
"""Minutes, requests a second, share of them that are missed."""


def counter(phases: Sequence[Phase], missed: bool) -> str:
    """The values of a counter that grows as the phases say, in promtool's notation."""
    parts, value = [], 0.0
    for minutes, rate, share in phases:
        steps = round(minutes * 60 / STEP_S)
        grows = rate * STEP_S * (share if missed else 1 - share)
        parts.append(f"{value:g}+{grows:g}x{steps - 1}")
        value += grows * steps
    return " ".join(parts)


def gauge(value: float, minutes: float) -> str:
    return f"{value:g}+0x{round(minutes * 60 / STEP_S)}"


def service(phases: Sequence[Phase], target: float) -> dict[str, str]:
    """The series of one service with one pod."""
    minutes = sum(phase[0] for phase in phases)
    return {
        "sponge_operator_slo_target_ratio{namespace='team',service='digits'}": gauge(target / 100, minutes),
        f"sponge_operator_server_reachable{{{POD}}}": gauge(1, minutes),
        "sponge_operator_tick_seconds_count": gauge(5, minutes),
        f'sponge_requests_total{{{SCRAPED},model="digits",slo_class="default",outcome="in_time"}}': counter(
            phases, False
        ),
        f'sponge_requests_total{{{SCRAPED},model="digits",slo_class="default",outcome="late"}}': counter(phases, True),
    }


def firing(tmp_path: Path, series: Mapping[str, str], minutes: float) -> set[str]:
    """Names of the alerts that fire after so many minutes of these series, each with its window if it has one.

    promtool only compares; an expectation that never holds makes it print what there is.
    """
    document: dict[str, Any] = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": f"{STEP_S}s",
        "tests": [
            {
                "interval": f"{STEP_S}s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname, window) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{round(minutes * 60)}s",
                        "exp_samples": [{"labels": '{alertname="none of these"}', "value": 1}],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "case.yaml"
    path.write_text(json.dumps(document))
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert "got:" in said, said
    return {_name(labels) for labels in re.findall(r"\{(.*?)\}", said.partition("got:")[2])}


def _name(labels: str) -> str:
    named = dict(re.findall(r'(\w+)="(.*?)"', labels))
    return " ".join(named[label] for label in ("alertname", "window") if label in named)


def test_the_rules_are_sound() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_rules_are_the_spec_of_a_prometheus_rule() -> None:
    spec = yaml.safe_load(ALERTS.read_text())
    assert set(spec) == {"groups"}
    for group in spec["groups"]:
        assert set(group) <= {"name", "interval", "rules"}
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["labels"]["severity"] in ("critical", "warning")
                assert set(rule["annotations"]) == {"summary", "action"}


@pytest.mark.parametrize(("target", "rate"), [(50.0, 2.0), (90.0, 0.5), (97.5, 50.0), (99.9, 0.2), (100.0, 20.0)])
def test_an_outage_pages_whatever_the_target(tmp_path: Path, target: float, rate: float) -> None:
    history = [(2.0, rate, 0.0), (40.0, rate, 1.0)]
    assert f"{FAST} 1h" in firing(tmp_path, service(history, target), 42)


@pytest.mark.parametrize("target", [50.0, 90.0, 99.0, 99.9])
def test_within_the_budget_nothing_fires(tmp_path: Path, target: float) -> None:
    history = [(60.0, 10.0, 0.8 * (1 - target / 100))]
    assert firing(tmp_path, service(history, target), 60) == set()


@pytest.mark.parametrize(("share", "pages"), [(0.05, False), (0.2, True)])
def test_the_same_misses_page_a_strict_service_only(tmp_path: Path, share: float, pages: bool) -> None:
    history = [(40.0, 10.0, share)]
    assert (f"{FAST} 1h" in firing(tmp_path, service(history, 99.0), 40)) is pages
    assert f"{FAST} 1h" in firing(tmp_path, service(history, 99.9), 40)
    assert f"{FAST} 1h" not in firing(tmp_path, service(history, 95.0), 40)


@pytest.mark.parametrize("missed", [1, 8])
@pytest.mark.parametrize("target", [99.0, 100.0])
def test_few_bad_requests_of_a_quiet_service_do_not_page(tmp_path: Path, missed: int, target: float) -> None:
    per_minute = 0.05
    history = [(30.0, per_minute / 60, 0.0), (1.0, missed / 60, 1.0), (4.0, per_minute / 60, 0.0)]
    assert firing(tmp_path, service(history, target), 35) == set()


def test_a_burn_that_is_over_ends_its_page(tmp_path: Path) -> None:
    history = [(30.0, 10.0, 0.0), (20.0, 10.0, 1.0), (20.0, 10.0, 0.0)]
    assert f"{FAST} 1h" in firing(tmp_path, service(history, 99.0), 50)
    assert f"{FAST} 1h" not in firing(tmp_path, service(history, 99.0), 70)


def test_a_slow_burn_is_a_ticket_and_no_page(tmp_path: Path) -> None:
    history = [(90.0, 5.0, 0.04)]
    assert firing(tmp_path, service(history, 99.0), 90) == {f"{SLOW} 1d", f"{SLOW} 3d"}


def test_the_target_of_each_service_counts_when_the_operator_is_gone(tmp_path: Path) -> None:
    history = [(30.0, 10.0, 0.0), (40.0, 10.0, 1.0)]
    series = service(history, 99.0)
    for name in series:
        if "operator" in name:
            series[name] = gauge(float(series[name].partition("+")[0]), 30) + " stale"
    assert firing(tmp_path, series, 70) == {
        "SpongeOperatorAbsent",
        f"{FAST} 1h",
        f"{FAST} 6h",
        f"{SLOW} 1d",
        f"{SLOW} 3d",
    }


def test_two_operators_and_two_pods_count_once(tmp_path: Path) -> None:
    history = [(40.0, 10.0, 0.1)]
    series = service(history, 99.0)
    for name, values in list(series.items()):
        if "operator" in name:
            series[name.replace("{", '{instance="standby",')] = values
        else:
            series[name.replace("x2x4z", "k9k9k")] = values
    series[f"sponge_operator_server_reachable{{{POD.replace('x2x4z', 'k9k9k')}}}"] = gauge(1, 40)
    assert f"{FAST} 1h" not in firing(tmp_path, series, 40)
    assert f"{FAST} 6h" in firing(tmp_path, series, 40)


SERVICE = 'namespace="team",service="digits",reason="Timeout"'
FRONTED = 'namespace="team",service="digits"'
FRONT_POD = 'namespace="team",pod="digits-front-6f7c-x2x4z"'
OPERATOR = {"sponge_operator_tick_seconds_count": gauge(5, 60)}


def fronts(wanted: int, ready: int, reason: str | None = None) -> dict[str, str]:
    """What the operator says of a service's fronts."""
    counts = {"wanted": wanted, "ready": ready}
    series = {f'sponge_operator_fronts{{{FRONTED},state="{state}"}}': gauge(n, 60) for state, n in counts.items()}
    why = {} if reason is None else {f'sponge_operator_front_not_ready{{{FRONTED},reason="{reason}"}}': gauge(1, 60)}
    return series | why


@pytest.mark.parametrize(
    ("series", "alert"),
    [
        ({f"sponge_operator_server_reachable{{{POD}}}": gauge(0, 60)}, "SpongeServerUnreachable"),
        ({f"sponge_operator_state_age_seconds{{{POD}}}": "0+30x120"}, "SpongeServerSilent"),
        ({f'sponge_operator_resize_blocked{{{POD},reason="Deferred"}}': gauge(1, 60)}, "SpongeResizeBlocked"),
        ({f'sponge_operator_resize_total{{{SERVICE},outcome="timeout"}}': "0+1x120"}, "SpongeResizesRefused"),
        ({f"sponge_operator_refused_cores{{{POD}}}": gauge(1, 60)}, "SpongeNodeTooSmall"),
        ({f"sponge_without_operator_seconds{{{SCRAPED}}}": "0+30x120"}, "SpongeServerWithoutOperator"),
        ({f"sponge_profile_drifted{{{SCRAPED}}}": gauge(1, 60)}, "SpongeProfileDrifted"),
        ({f'sponge_lane_crashes_total{{{SCRAPED},model="digits"}}': "0+1x120"}, "SpongeLanesCrash"),
        (
            {f"sponge_lanes{{{SCRAPED}}}": gauge(2, 60), f"sponge_lanes_healthy{{{SCRAPED}}}": gauge(1, 60)},
            "SpongeLanesLost",
        ),
        ({f"sponge_certificate_expiry_seconds{{{SCRAPED}}}": gauge(86400, 60)}, "SpongeCertificateExpires"),
        ({f'sponge_reload_failures_total{{{SCRAPED},setting="tls"}}': "0+0x90 1+0x30"}, "SpongeFilesRefused"),
        (fronts(2, 0, "SecretMissing"), "SpongeFrontsGone"),
        (fronts(2, 1, "FrontsNotReady"), "SpongeFrontNotReady"),
        (fronts(2, 2, "SecretInvalid"), "SpongeFrontNotReady"),
        (
            {
                f"sponge_front_pods{{{FRONT_POD}}}": gauge(3, 60),
                f"sponge_front_pods_reporting{{{FRONT_POD}}}": gauge(2, 60),
            },
            "SpongeFrontBlind",
        ),
        (
            {
                f"sponge_front_pods{{{FRONT_POD},container='picker'}}": gauge(3, 60),
                f"envoy_http_ext_proc_failure_mode_allowed{{{FRONT_POD},container='envoy'}}": "0+3x120",
                f"envoy_http_ext_proc_streams_started{{{FRONT_POD},container='envoy'}}": "0+30x120",
            },
            "SpongeFrontTurns",
        ),
        (
            {
                f"sponge_front_pods{{{FRONT_POD},container='picker'}}": gauge(3, 60),
                f"envoy_server_days_until_first_cert_expiring{{{FRONT_POD},container='envoy'}}": gauge(3, 60),
            },
            "SpongeFrontCertificateExpires",
        ),
        (
            {
                f'sponge_event_loop_lag_seconds_bucket{{{SCRAPED},le="0.1"}}': gauge(0, 60),
                f'sponge_event_loop_lag_seconds_bucket{{{SCRAPED},le="0.5"}}': "0+30x120",
                f'sponge_event_loop_lag_seconds_bucket{{{SCRAPED},le="+Inf"}}': "0+30x120",
            },
            "SpongeEventLoopSlow",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_fires_and_nothing_else(tmp_path: Path, series: dict[str, str], alert: str) -> None:
    assert firing(tmp_path, OPERATOR | series, 55) == {alert}


@pytest.mark.parametrize(
    "series",
    [
        fronts(2, 2),
        {'envoy_server_days_until_first_cert_expiring{namespace="team",pod="somebody-else"}': gauge(1, 60)},
        {
            f"sponge_front_pods{{{FRONT_POD},container='picker'}}": gauge(3, 60),
            f"envoy_http_ext_proc_failure_mode_allowed{{{FRONT_POD},container='envoy'}}": "0+1x120",
            f"envoy_http_ext_proc_streams_started{{{FRONT_POD},container='envoy'}}": "0+30x120",
        },
    ],
    ids=["ready", "another Envoy", "a few in turn"],
)
def test_what_is_well_or_not_ours_does_not_fire(tmp_path: Path, series: dict[str, str]) -> None:
    assert firing(tmp_path, OPERATOR | series, 55) == set()


def test_every_alert_is_tested() -> None:
    text = Path(__file__).read_text()
    spec = yaml.safe_load(ALERTS.read_text())
    names = {rule["alert"] for group in spec["groups"] for rule in group["rules"] if "alert" in rule}
    assert {name for name in names if f'"{name}' not in text} == set()


def test_no_operator_is_an_alert(tmp_path: Path) -> None:
    assert firing(tmp_path, {'up{job="x"}': gauge(1, 60)}, 10) == {"SpongeOperatorAbsent"}
