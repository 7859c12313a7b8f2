"""The control token follows its file, and the one before works for a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from sponge_core.errors import SpongeError
from sponge_server.security.control_token import FORMER_S, ControlToken


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


def test_a_change_puts_both_into_force_for_a_while(path: Path, clock: Clock) -> None:
    token = ControlToken(path, clock)
    token.load()
    assert token.accepts("first")
    assert not any(token.accepts(other) for other in ("", "second", "firs", "first2"))
    path.write_text("second")
    token.load()
    clock.now += FORMER_S - 1
    assert token.accepts("first")
    assert token.accepts("second")
    token.load()  # nothing new, so the time of the former one goes on
    clock.now += 2
    assert not token.accepts("first")
    assert token.accepts(" second ")
    assert not token.accepts("")


@pytest.mark.parametrize("content", [b"", b" \n\t"])
def test_an_empty_file_changes_nothing(path: Path, clock: Clock, content: bytes) -> None:
    token = ControlToken(path, clock)
    token.load()
    path.write_bytes(content)
    with pytest.raises(SpongeError, match="the file is empty"):
        token.load()
    clock.now += 2 * FORMER_S
    assert token.accepts("first")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpongeError, match=r"control-token-file .*gone: cannot be read"):
        ControlToken(tmp_path / "gone").load()
