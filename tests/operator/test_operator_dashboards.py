"""The committed dashboard is what its code makes, and it shows what a service's owner has to see."""

from __future__ import annotations

import json

from sponge_dashboards import DASHBOARD, queries, render
from sponge_dashboards.panels import ROWS


def test_the_committed_json_is_what_the_code_makes() -> None:
    assert DASHBOARD.read_text() == render(), "run `make dashboards`"


def test_every_query_is_in_the_json() -> None:
    document = json.loads(render())
    drawn = [target["expr"] for panel in document["panels"] for target in panel.get("targets", ())]
    assert drawn == [expr for _, expr in queries()]


def test_panels_do_not_overlap_and_have_a_number_of_their_own() -> None:
    panels = json.loads(render())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in panels]
    assert len(set(numbers)) == len(numbers)


def test_titles_are_unique_and_every_panel_says_what_it_shows() -> None:
    panels = [panel for row in ROWS.values() for panel in row]
    titles = [panel.title for panel in panels]
    assert len(set(titles)) == len(titles)
    assert all(panel.text.endswith(".") for panel in panels)
