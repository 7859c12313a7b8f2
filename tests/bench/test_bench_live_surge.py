"""A surge benchmark whose second system fails: what the first one has shown is written all the same."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import live_surge
from sponge_core.errors import SpongeError

RESULT = {
    "in_time": 0.99,
    "mean_cores": 0.5,
    "started": 1,
    "resizes": 7,
    "cold_starts_s": [9.5],
    "p99_ms": 700.0,
    "steps": [[0.0, 0.5], [60.0, 0.5]],
    "batches_s": {"1": [0.1]},
}


@pytest.mark.parametrize(("systems", "rows"), [(("sponge", "themis"), 1), (("themis",), 0)])
def test_a_system_that_fails_loses_none_before_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    systems: tuple[str, ...],
    rows: int,
) -> None:
    def run_piece(_place: object, _target: object, system: object, *_: object) -> dict[str, Any]:
        if system is live_surge.NAMES["themis"]:
            raise SpongeError("the pods are not ready")
        return RESULT

    monkeypatch.setattr(live_surge, "place", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(live_surge, "run_piece", run_piece)
    monkeypatch.setattr(live_surge, "prioritize_process", lambda: None)
    monkeypatch.setattr(sys, "argv", ["live_surge", "--out", str(tmp_path), "--short", "--systems", *systems])
    with pytest.raises(SystemExit) as ended:
        live_surge.main()
    assert ended.value.code == "live_surge: the pods are not ready"
    saved = tmp_path / "live_surge.json"
    assert saved.exists() == bool(rows)
    if rows:
        assert [row["system"] for row in json.loads(saved.read_text())["rows"]] == ["sponge"]
        assert "sponge" in capsys.readouterr().out
