"""The experiments: what is run and what is not run again, how policies compare, and the whole of it in miniature."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bench.experiments import campaign
from bench.experiments.campaign import cases, run_missing
from bench.experiments.catalogue import EXPERIMENTS, OURS, Experiment, quick
from bench.experiments.document import filled
from bench.experiments.runs import Case, run
from bench.experiments.summary import Row, Spread, against, by_variant, rows
from bench.experiments.tables import verdict
from bench.pages import as_page
from bench.serving.ledger import Ledger

from sponge_core.errors import SpongeError
from sponge_simulator.comparison import CLAIRVOYANT

ROOT = Path(__file__).resolve().parents[2]
FIXED = replace(quick(EXPERIMENTS["paper-poisson"]), policies=("static-8", CLAIRVOYANT))


@pytest.fixture(autouse=True)
def _synthetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPONGE_TRACES", str(tmp_path))


def row(policy: str, missed: int, cores: float) -> Row:
    share, size = Spread(missed / 10, missed / 10, missed / 10), Spread(cores, cores, cores)
    return Row(policy, 1, 1000, missed, share, size, None, 0.0, {}, ((missed, cores),))


def test_a_run_is_kept_and_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.jsonl"
    first = run_missing([FIXED], Ledger(path), 1)
    assert len(path.read_text().splitlines()) == len(first[FIXED.name]) == 2
    monkeypatch.setattr(campaign, "run", None)  # would fail
    assert run_missing([FIXED], Ledger(path), 1) == first


def test_what_code_that_decides_the_same_gave_is_kept_after_a_look_at_one_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, twice = tmp_path / "runs.jsonl", replace(FIXED, seeds=3)
    first = run_missing([twice], Ledger(path), 1)
    monkeypatch.setattr("bench.experiments.runs._fingerprint", lambda case: "changed")
    assert run_missing([twice], Ledger(path), 1, spot_check=True) == first
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [run["params"]["seed"] for run in kept] == [1, 1, 2, 2, 3, 3, 1, 1, 2, 3, 2, 3]
    path.write_text(path.read_text().replace('"missed": ', '"missed": 9'))
    monkeypatch.setattr("bench.experiments.runs._fingerprint", lambda case: "changed again")
    assert run_missing([twice], Ledger(path), 1, spot_check=True) == first  # none was kept: the first seed differs


def test_a_run_depends_on_its_own_policy_and_not_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def sources(policy: str) -> object:
        return Case("x", FIXED.variants[0], policy, 1).parameters()["sources"]

    assert sources("static-8") == sources("static-4")
    assert len({sources(policy) for policy in ("sponge", "sponge-paper", "static-4", "vpa", CLAIRVOYANT)}) == 5


def test_every_experiment_measures_ours_against_others_and_the_bound() -> None:
    for name, experiment in EXPERIMENTS.items():
        assert name == experiment.name
        assert {OURS[0], CLAIRVOYANT} < set(experiment.policies)
        assert len(set(experiment.policies)) == len(experiment.policies)
        assert len(experiment.variants) == 1 or experiment.axis


def test_a_sweep_is_told_apart_by_its_places() -> None:
    sweep: Experiment = replace(quick(EXPERIMENTS["by-slo"]), policies=("static-8",))
    found = [(case, run(case)) for case in cases(sweep)]
    places = by_variant(found)
    assert list(places) == [600, 2000]
    assert places[600][0].missed >= places[2000][0].missed
    assert rows(found)[0].sent == sum(place[0].sent for place in places.values())


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ((0, 4.0), "better"),
        ((1, 3.0), "better"),
        ((1, 2.0), "misses less"),
        ((0, 3.0), "equal"),
        ((0, 2.0), "worse"),
    ],
)
def test_better_is_no_worse_in_both_and_better_in_one(other: tuple[int, float], word: str) -> None:
    assert against(row("sponge", 0, 3.0), row("other", *other)) == word


def test_who_misses_less_on_fewer_cores_is_named() -> None:
    found = [row("sponge", 1, 3.0), row("a", 0, 2.5), row("b", 5, 9.0), row("c", 50, 1.0), row(CLAIRVOYANT, 0, 2.0)]
    said = verdict(found)
    assert "1.50 times the bound" in said
    assert "better in one than 1 of 3 others" in said
    assert "beaten by `a` (0 %, 2.50)" in said
    assert "on more cores, than `c` (5.000 %, 1.00)" in said


def test_generated_parts_replace_those_before_and_prose_stays(tmp_path: Path) -> None:
    text = "# Title\n\nProse.\n\n<!-- one -->\nold\n<!-- / -->\n\n<!-- two -->\nkept\n<!-- / -->\n"
    once = filled(text, {"one": "new"})
    assert once == text.replace("old", "new")
    assert filled(once, {"one": "new"}) == once
    with pytest.raises(SpongeError, match="no place for three: add the lines '<!-- three -->'"):
        filled(text, {"three": "lost"})
    (tmp_path / "x.svg").write_text(
        '<?xml version="1.0"?>\n<svg><a id="p"/><use href="#p" style="clip: url(#p)"/></svg>'
    )
    page = as_page("# T\n\n| a | b |\n| --- | --: |\n| 1 | 2 |\n\n![picture](x.svg)\n", "T", tmp_path)
    assert '<svg><a id="x-p"/><use href="#x-p" style="clip: url(#x-p)"/></svg>' in page
    assert "<table>" in page
    assert "<img" not in page


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_of_it_in_miniature(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.experiments", "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "all are synthetic" in page
    assert page.count("<svg") == (tmp_path / "docs" / "experiments.md").read_text().count(".svg)") > 10
    assert "13 of 13 rows are the same" in page
