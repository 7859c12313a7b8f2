"""The generated reference pages hold every item of the code that they are generated from."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest
import yaml
from prometheus_client import CollectorRegistry

from sponge_cli.main import SUBCOMMANDS
from sponge_cli.options import settings_options
from sponge_docs.cli import cli_page, commands
from sponge_docs.conditions import conditions_page, gaps, scan
from sponge_docs.crd import CRD, crd_page
from sponge_docs.metrics import metrics_page
from sponge_docs.pages import PAGES
from sponge_docs.reasons import BLOCKED, CONDITIONS, DECISIONS, EVENTS
from sponge_docs.settings import VALUES, chart_values, settings_page
from sponge_operator.metrics import Metrics as OperatorMetrics
from sponge_server.observability.metrics import Metrics as ServerMetrics
from sponge_server.settings import ServerSettings


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_whole(path: str) -> None:
    page = PAGES[path]()
    assert page.startswith("# ")
    for line in page.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            assert line.endswith("|"), line
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    for rows in (block.splitlines() for block in tables):
        widths = {re.sub("`[^`]*`", "", row).count("|") for row in rows}
        assert len(widths) == 1, rows[0]


def test_the_settings_page_has_every_setting_of_the_server_with_its_default_and_help() -> None:
    page = settings_page()
    for option in settings_options(ServerSettings):
        assert isinstance(option, click.Option)
        default = option.note.partition(";")[0].removeprefix("default: ")  # type: ignore[attr-defined]
        metavar = f" {option.metavar}" if option.metavar else ""
        flag = f"`{option.opts[0]}{metavar}`"
        variable = f"SPONGE_SERVE_{(option.name or '').upper()}"
        default = "**required**" if default == "required" else default
        assert f"| {flag} | `{variable}` | {default} | {option.help} |" in page


def test_the_settings_page_has_every_value_of_the_chart_with_its_comment() -> None:
    page = settings_page()

    def leaves(tree: dict[str, object], above: str) -> list[str]:
        found = []
        for key, value in tree.items():
            found += leaves(value, f"{above}{key}.") if isinstance(value, dict) and value else [f"{above}{key}"]
        return found

    for path in leaves(yaml.safe_load(VALUES.read_text()), ""):
        assert f"| `{path}` |" in page
    documented = VALUES.read_text().count("# -- ")
    assert sum(bool(value.text) for value in chart_values()) >= documented > 10


@pytest.mark.parametrize("part", ["server", "operator"])
def test_the_metrics_page_has_every_metric_with_its_labels_and_text(part: str) -> None:
    registry = CollectorRegistry()
    if part == "server":
        registry = ServerMetrics().registry
    else:
        OperatorMetrics(registry)
    page = metrics_page()
    count = 0
    collectors: list[Any] = list(registry._collector_to_names)
    for collector in collectors:
        if hasattr(collector, "_labelnames"):
            name = collector._name + ("_total" if collector._type == "counter" else "")
            labels = ", ".join(collector._labelnames)
            assert f"| `{name}` | {collector._type} | {labels} | {collector._documentation} |" in page
            count += 1
    assert count > 5


def test_the_resource_page_has_every_field_and_every_rule_of_the_definition() -> None:
    page = crd_page()
    version = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]
    seen = 0

    def check(schema: dict[str, object], path: str) -> None:
        nonlocal seen
        for rule in schema.get("x-kubernetes-validations", ()):  # type: ignore[attr-defined]
            assert " ".join(rule["message"].split()) in page
        items = schema.get("items", schema)
        path += "[]" if "items" in schema else ""
        assert isinstance(items, dict)
        for name, child in items.get("properties", {}).items():
            seen += 1
            assert f"| `{path}.{name}` |" in page
            assert " ".join(child.get("description", "").split()) in page
            check(child, f"{path}.{name}")

    schema = version["schema"]["openAPIV3Schema"]
    for part in ("spec", "status"):
        check(schema["properties"][part], part)
    for column in version["additionalPrinterColumns"]:
        assert f"| {column['name'].upper()} |" in page
    assert seen > 50


def test_every_condition_and_event_of_the_operator_is_explained_and_every_explanation_is_of_one() -> None:
    found = scan()
    assert gaps(found) == []
    assert set(found.conditions) == set(CONDITIONS) >= {"Ready", "Planning", "ResizeBlocked", "SLOAttained"}
    assert {"Deferred", "Infeasible", "Timeout", "NodeShared"} <= found.blocked
    assert {"NodeCapacity", "QuotaExceeded", "LimitRange", "AdmissionDenied", "Forbidden"} <= found.blocked
    assert {"Ready", "SLOMissed", "Conflict", "Resize…"} <= found.events
    assert {"InvalidSpec", "ApplyFailed", "NameTaken", "FailedCreate"} <= found.obstacles
    page = conditions_page()
    for name in [*CONDITIONS, *BLOCKED, *EVENTS, *DECISIONS]:
        assert name in page
    for _, reasons in CONDITIONS.values():
        for (status, reason), meaning in reasons.items():
            assert f"| {status} | `{reason}` | {meaning} |" in page


def test_a_reason_without_an_explanation_stops_the_page() -> None:
    found = scan()
    found.events.add("Surprise")
    found.conditions["Ready"].add(("True", "ByMagic"))
    found.strings.discard("parked")
    assert gaps(found) == [
        "no explanation of Ready ('True', 'ByMagic')",
        "no explanation of event Surprise",
        "parked is explained, but not in the source",
    ]


def test_the_command_line_page_has_the_help_of_every_command() -> None:
    page = cli_page()
    found = dict(commands())
    assert {path[1] for path in found if len(path) > 1} >= {*SUBCOMMANDS, "cluster", "demo"}
    assert ("sponge", "operator", "run") in found
    for path, text in found.items():
        assert text.startswith(f"Usage: {' '.join(path)}")
        assert text in page
