"""The guide for trouble and the operator name the same reasons: none is missing in the guide, none is made up there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from sponge_docs.reasons import BLOCKED, CONDITIONS, DECISIONS, TROUBLES, WAITS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text()
OF_KUBERNETES = {"ErrImagePull", "CrashLoopBackOff", "ReadinessGatesNotReady"}


def named(section: str) -> set[str]:
    """What the first column of a section's table names."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)}


def reasons(condition: str) -> set[str]:
    """Reasons of a condition that is False."""
    return {reason for status, reason in CONDITIONS[condition][1] if status == "False"}


def test_every_reason_is_there_and_every_named_one_exists() -> None:
    assert named("Ready is False") == reasons("Ready") | set(WAITS) | set(TROUBLES) | OF_KUBERNETES
    assert named("SourceLive is False") == reasons("SourceLive")
    assert named("Planning is False") == reasons("Planning")
    assert named("ResizeBlocked is True") == set(BLOCKED)
    assert named("ProfileReady is False") == reasons("ProfileReady")
    assert named("FrontReady is False") == reasons("FrontReady")


def test_decisions_that_are_named_exist() -> None:
    assert named("SLOAttained is False") <= set(DECISIONS)


def test_every_condition_that_can_be_bad_has_a_section() -> None:
    sections = set(re.findall(r"^## (\w+) is (?:False|True)$", PAGE, re.MULTILINE))
    # Available and Synced say less than Ready, and Resizing passes by itself; Conflict is a reason of Planning.
    assert sections == set(CONDITIONS) - {"Available", "Synced", "Resizing", "Conflict"}


def test_every_section_names_something() -> None:
    for section in re.findall(r"^## (.*)$", PAGE, re.MULTILINE):
        assert named(section), section


def test_every_alert_is_there() -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
    assert named("Alerts") == {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
