"""Sources of traces: files, seeds, and the synthetic traces that stand in for absent recordings."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from sponge_core.errors import TraceError
from sponge_workload.files import find_4g_trace, load_arrivals, load_bandwidth
from sponge_workload.synthetic import synthetic_4g

ROW = "1000 725 51.0 3.7 1450 725\n"


def test_the_recorded_trace_is_found_only_in_the_folder_that_the_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "shared" / "traces"
    folder.mkdir(parents=True)
    assert find_4g_trace({"SPONGE_TRACES": str(folder)}) is None
    (folder / "ghent_4g_bus_0001.log").write_text(ROW)
    assert find_4g_trace({}) is None
    assert find_4g_trace({"SPONGE_TRACES": ""}) is None
    assert find_4g_trace({"SPONGE_TRACES": str(tmp_path)}) is None
    assert find_4g_trace({"SPONGE_TRACES": str(folder)}) == folder / "ghent_4g_bus_0001.log"


def test_bandwidth_sources(tmp_path: Path) -> None:
    (tmp_path / "ghent_4g_bus_0001.log").write_text(ROW)
    recorded = load_bandwidth("4g", 1, {"SPONGE_TRACES": str(tmp_path)})
    assert recorded is not None
    assert (recorded.name, recorded.bytes_per_s) == ("ghent_4g_bus_0001.log", (2000.0,))
    absent = {"SPONGE_TRACES": str(tmp_path / "none")}
    assert load_bandwidth("4g", 3, absent) == load_bandwidth("synthetic", 3, {}) == synthetic_4g(600, 3)
    assert load_bandwidth("none", 1, {}) is None


def test_arrival_sources(tmp_path: Path) -> None:
    counts = tmp_path / "counts.txt.gz"
    with gzip.open(counts, "wt") as stream:
        stream.write("40\n" * 60)
    assert len(load_arrivals("burst", 5, 10, 1, {})) == 50
    assert len(load_arrivals(str(counts), None, 10, 1, {})) == 400
    thinned = load_arrivals(str(counts), 10, 60, 1, {})
    assert len(thinned) == pytest.approx(600, rel=0.15)
    assert thinned == load_arrivals(str(counts), 10, 60, 1, {})


def test_what_cannot_be_read_or_met_is_said(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"cannot be read .*give the path"):
        load_bandwidth(str(tmp_path / "absent.log"), 1, {})
    with pytest.raises(TraceError, match="needs --rate"):
        load_arrivals("poisson", None, 10, 1, {})
    (tmp_path / "counts.txt").write_text("1\n" * 10)
    with pytest.raises(TraceError, match=r"counts.txt: 1.0 requests/s in the first 10 s; lower --rate 20"):
        load_arrivals(str(tmp_path / "counts.txt"), 20, 10, 1, {})


def test_named_arrivals_come_from_the_recording_or_from_a_seed(tmp_path: Path) -> None:
    (tmp_path / "twitter_2021_bursty_rps.txt").write_text("3\n" * 20)
    assert len(load_arrivals("twitter", None, 20, 1, {"SPONGE_TRACES": str(tmp_path)})) == 60
    absent = {"SPONGE_TRACES": str(tmp_path / "none")}
    drawn = load_arrivals("twitter", None, 600, 1, absent)
    assert len(drawn) / 600 == pytest.approx(99.8, rel=0.15)  # the recording's mean
    assert drawn == load_arrivals("twitter", None, 600, 1, absent)
    assert len(load_arrivals("azure-conv", None, 600, 1, absent)) / 600 == pytest.approx(5.5, rel=0.1)
    bursty = load_arrivals("azure-code", None, 600, 1, absent)
    seconds = {int(at) for at in bursty}
    assert len(seconds) < 200  # nothing in most of the seconds
