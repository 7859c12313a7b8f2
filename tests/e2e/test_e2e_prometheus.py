"""Every query of every panel and alert, on a real Prometheus that scrapes the real cluster: each returns data."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from certificates_kit import Authority, tls_secret
from fronts_kit import address, ask_by_tls, fronts, put_pair
from load_kit import send
from operator_kit import Kubectl, Service, eventually
from prometheus_kit import Prometheus
from server_process import ServerProcess

from sponge_dashboards import queries
from sponge_operator.resources.front_manifests import ENVOY_PORT, PICKER_PORT

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.usefixtures("operator_running")]

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"
SCRAPE_S = 1
SECURE = {"namespace": "elsewhere", "pod": "secure-6f7c-x2x4z"}
"""Of a server with TLS beside the cluster, because certificates have a panel too."""
ONLY_IN_TROUBLE = {"sponge_operator_resize_blocked", "sponge_operator_front_not_ready"}


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[ServerProcess]:
    authority = Authority()
    secret = tls_secret(tmp_path / "tls", authority.issue())
    files = ("--tls-cert-file", str(secret.path("tls.crt")), "--tls-key-file", str(secret.path("tls.key")))
    server = ServerProcess(tmp_path, "--model", "digits=digits://", *files, trust=authority.client())
    yield server
    server.stop()


@pytest.fixture
def fronted(kubectl: Kubectl, digits: Service) -> Iterator[ssl.SSLContext]:
    """The service has a front with TLS meanwhile; whom its clients trust."""
    authority = Authority()
    put_pair(kubectl, digits.namespace, "edge", authority.issue())
    digits.patch(front={"replicas": 1, "tls": {"secretName": "edge"}})
    try:
        eventually(lambda: digits.is_("FrontReady", "True", "FrontsReady"), 60, "the front is there")
        trust = authority.client()
        trust.check_hostname = False  # by address
        yield trust
    finally:
        digits.patch(front=None)


def target(pod: dict[str, Any], port: int | str) -> dict[str, Any]:
    """A port of a pod, with the labels that a Prometheus in the cluster adds."""
    labels = {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}
    return {"targets": [f"{pod['status']['podIP']}:{port}"], "labels": labels}


def scraping(kubectl: Kubectl, digits: Service, secure: ServerProcess, rules: Path) -> dict[str, Any]:
    """What a Prometheus without its operator scrapes: every pod with the usual annotations, as found at the start.

    Fronts have two ports, which the chart's PodMonitor names.
    """
    annotation = "prometheus.io/"
    targets = []
    for pod in json.loads(kubectl("get", "pods", "-A", "-o", "json"))["items"]:
        annotations = pod["metadata"].get("annotations", {})
        if annotations.get(f"{annotation}scrape") == "true" and "podIP" in pod["status"]:
            targets.append(target(pod, annotations[f"{annotation}port"]))
    pickers, envoys = ([target(pod, port) for pod in fronts(digits)] for port in (PICKER_PORT, ENVOY_PORT))
    return {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": "pods", "honor_labels": True, "static_configs": targets},
            {"job_name": "pickers", "static_configs": pickers},
            {"job_name": "envoys", "metrics_path": "/stats/prometheus", "static_configs": envoys},
            {
                "job_name": "secure",
                "scheme": "https",
                "tls_config": {"insecure_skip_verify": True},
                "static_configs": [{"targets": [secure.control.partition("//")[2]], "labels": SECURE}],
            },
        ],
    }


def filled_in(expr: str, namespace: str) -> str:
    """A panel's expression as Grafana sends it, with all services chosen."""
    values = {"$__rate_interval": f"{8 * SCRAPE_S}s", "$__range": "2m", "$namespace": f"{namespace}|elsewhere"}
    for name, value in (values | {"$service": ".*"}).items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


def test_every_query_returns_data(
    kubectl: Kubectl, digits: Service, fronted: ssl.SSLContext, secure: ServerProcess, tmp_path: Path
) -> None:
    rules = tmp_path / "alerts.yaml"
    rules.write_text(re.sub(r"interval: \w+", f"interval: {SCRAPE_S}s", ALERTS.read_text()))
    panels = [(title, filled_in(expr, digits.namespace)) for title, expr in queries()]
    with Prometheus(tmp_path, scraping(kubectl, digits, secure, rules)) as prometheus:
        pod = digits.pod()
        eventually(lambda: len(prometheus.query("up == 1")) >= 5, 20, "operator, servers and the front are scraped")
        # More than 250m carries, so that it grows and shrinks; some are hopeless, and one names no model.
        statuses = send(pod, "digits", rate=200, seconds=6, slo_ms=300) | send(pod, "digits", 50, 1, slo_ms=0.01)
        assert statuses.get(200), statuses
        send(pod, "nothing", rate=20, seconds=1, slo_ms=300)
        assert ask_by_tls(address(digits, f"{digits.name}-front"), fronted) == 200
        digits.patch(replicas={"min": 2, "max": 3})  # a further pod starts

        def empty() -> list[tuple[str, str]]:
            return [(title, expr) for title, expr in panels if not prometheus.query(expr)]

        try:
            eventually(lambda: not empty(), 40, "every panel has data")
        except AssertionError:
            raise AssertionError(f"no data: {empty()}") from None
        finally:
            digits.patch(replicas={"min": 1, "max": 1})
            eventually(lambda: len(digits.pods()) == 1, 20, "one pod is left")
        assert_rules_have_data(prometheus)


def assert_rules_have_data(prometheus: Prometheus) -> None:
    """Every rule runs; what it records exists, and so does every series that an alert looks at."""
    eventually(lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()), 10, "every rule has run")
    assert [rule["lastError"] for rule in prometheus.rules() if rule["health"] != "ok"] == []
    for rule in prometheus.rules():
        if rule["type"] == "recording":
            assert prometheus.query(rule["name"]), rule["name"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            names = set(re.findall(r"\bsponge[_:][\w:]+", rule["expr"])) - ONLY_IN_TROUBLE
            for name in names:
                assert prometheus.query(name), f"{rule.get('alert') or rule['record']}: no {name}"
