"""A front that cannot start leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.live_front import LiveFront


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "error"), [("/nonexistent", FileNotFoundError), ("/bin/false", TimeoutError)], ids=["absent", "fails"]
)
def test_where_envoy_does_not_start_the_picker_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, error: type[Exception]
) -> None:
    monkeypatch.setattr("bench.live_front.envoy_program", lambda: program)
    (tmp_path / "token").write_text("secret")
    front = LiveFront(["127.0.0.1,1,2,3"], tmp_path / "token")
    with pytest.raises(error), front:
        pass
    assert front.picker.poll() is not None
    assert not front.directory.exists()
