"""Every value of the chart has a description in its schema, which is the comment above it."""

from __future__ import annotations

import json

from sponge_docs.chart_schema import SCHEMA, described, undescribed


def test_descriptions_are_the_comments() -> None:
    assert SCHEMA.read_text() == described(), "run `python -m sponge_docs.chart_schema`"


def test_every_value_is_described() -> None:
    assert undescribed(json.loads(SCHEMA.read_text())) == []
