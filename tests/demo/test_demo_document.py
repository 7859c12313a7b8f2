"""The document: what it says in words, and that the report and the picture are made of it alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from demo_story import START, fixed_run, story

from sponge_demo.cluster import manifest
from sponge_demo.document import Progress, Story, build_document, verdict
from sponge_demo.recording import Run
from sponge_demo.report import write_json, write_picture, write_report
from sponge_demo.scenario import Scenario, around_worst_second
from sponge_workload.bandwidth import BandwidthTrace
from sponge_workload.synthetic import synthetic_4g

SPONGE = "Sponge answered 90.00 % in time with 0.62 cores on average."
ACCOUNT = " Each of the 20 requests of every run is accounted for."


@pytest.mark.parametrize(
    ("fixed", "text"),
    [
        ((), SPONGE),
        ([fixed_run(500, 18)], f"{SPONGE} A fixed 0.5 cores came to 90.00 %."),
        (
            [fixed_run(500, 18), fixed_run(750, 19)],
            f"{SPONGE} A fixed 0.75 cores came to 95.00 %, and no fixed size that ran to 99 %.",
        ),
        ([fixed_run(1250, 20)], f"{SPONGE} That is 50 % of the 1.25 cores of a fixed size that keeps 99 %."),
        (
            [fixed_run(1250, 20), fixed_run(1125, 19)],
            f"{SPONGE} That is 50 % of the 1.25 cores of the smallest fixed size that keeps 99 %. "
            "The next smaller size, 1.125 cores, answered 95.00 % in time: it lost 1 request.",
        ),
        (
            [fixed_run(1250, 20), fixed_run(1000, 15)],
            f"{SPONGE} That is 50 % of the 1.25 cores of a fixed size that keeps 99 %. "
            "A smaller size, 1 core, answered 75.00 % in time: it lost 5 requests.",
        ),
    ],
)
def test_the_verdict(fixed: list[Run], text: str) -> None:
    assert verdict(story(*fixed)) == text + ACCOUNT


def test_the_verdict_does_not_claim_requests_that_are_missing() -> None:
    told = story(fixed_run(500, 18))
    told.figures[1] = replace(told.figures[1], sent=19)
    assert "accounted for" not in verdict(told)


def test_there_is_no_verdict_before_the_first_run_has_ended() -> None:
    assert verdict(story(ended=False)) == ""


def document(told: Story) -> dict[str, object]:
    return build_document(told, Progress("done", "Done", 1.0), START + 100)


def test_the_document_is_plain_json_and_has_every_run() -> None:
    told = story(fixed_run(500, 18))
    built = document(told)
    assert json.loads(json.dumps(built)) == built
    runs = built["runs"]
    assert isinstance(runs, list)
    assert [(run["name"], run["static"]) for run in runs] == [("Sponge", False), ("fixed 0.5", True)]
    assert runs[0]["now"]["ended"] == runs[0]["now"]["scheduled"] == 20


def test_a_document_before_the_first_request() -> None:
    told = story(ended=False)
    told.runs = [Run("Sponge", None, [], [])]
    built = document(told)
    assert built["verdict"] == ""


def test_the_report_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    write_report(document(story()), report)
    page = report.read_text()
    own = page.replace(page[page.index("<script>/**") : page.index("</script>")], "")
    assert 'src="' not in own
    assert 'rel="stylesheet"' not in own
    assert "sponge demo <\\/script>" in own


@pytest.mark.parametrize("name", ["picture.svg", "picture.png"])
def test_the_picture_and_the_figures(tmp_path: Path, name: str) -> None:
    built = document(story(fixed_run(500, 18), fixed_run(750, 20)))
    write_picture(built, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 10_000
    write_json(built, tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == built


def test_a_short_run_holds_the_worst_second_of_its_trace() -> None:
    trace = synthetic_4g(600, seed=1)
    worst = min(trace.bytes_per_s)
    for duration_s in (20, 180, 599):
        shifted = trace.starting_at(around_worst_second(trace, duration_s))
        assert worst in [shifted.bandwidth_at(second + 0.5) for second in range(duration_s)]
    assert around_worst_second(BandwidthTrace("short", (2.0, 1.0), (1.0, 1.0)), 10) == 0.0


def test_the_document_tells_the_rate_and_what_was_sent_in_each_second() -> None:
    assert document(story())["arrivals"] == {"sent": [1.0] * 20, "rate": [1.0] * 20}
    unknown = story()
    unknown.workload = None
    assert document(unknown)["arrivals"] == {"sent": [], "rate": []}


def test_the_service_keeps_its_size_until_sponge_may_choose() -> None:
    spec = manifest(Scenario(60.0))["spec"]
    assert spec["cpu"] == {"min": "250m", "max": "1250m", "step": "250m"}
    assert spec["mode"] == "Off"
    assert spec["batch"] == {"max": 4}
    assert spec["profile"] == {"from": "auto"}
    assert manifest(Scenario(60.0), {"spec": {"nodeName": "here"}})["spec"]["template"] == {
        "spec": {"nodeName": "here"}
    }
