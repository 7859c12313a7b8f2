"""Logs: one event per line in both forms, libraries included, secrets masked, repeated warnings suppressed."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest

from sponge_system import logs
from sponge_system.logs import event, masked, set_up

log = logging.getLogger("sponge_server.test")


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be changed by the test."""
    time = [100.0]
    monkeypatch.setattr("sponge_system.logs.time.monotonic", lambda: time[0])
    return time


Capture = pytest.CaptureFixture[str]


def said(capsys: Capture) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_event_is_one_object_with_its_fields(capsys: Capture) -> None:
    set_up("info", "json")
    event(log, "drain.begin", requests=3, took_s=0.125, cause=OSError("gone\naway"), why=None)
    (line,) = said(capsys)
    time = datetime.fromisoformat(str(line.pop("time")))
    assert time.utcoffset() is not None
    assert line == {
        "level": "info",
        "logger": "sponge_server.test",
        "event": "drain.begin",
        "requests": 3,
        "took_s": 0.125,
        "cause": "gone\naway",
        "why": None,
    }


def test_the_same_as_text_keeps_to_one_line(capsys: Capture) -> None:
    set_up("info", "text")
    event(log, "drain.begin", requests=3, took_s=1 / 3, cause=OSError("gone\naway"), empty="")
    time, rest = capsys.readouterr().err.split(" ", 1)
    assert datetime.fromisoformat(time).microsecond % 1000 == 0
    expected = 'info sponge_server.test drain.begin requests=3 took_s=0.333333 cause="gone\\naway" empty=""\n'
    assert rest == expected


def test_without_a_terminal_the_log_is_json(capsys: Capture) -> None:
    set_up("info")
    event(log, "x")
    assert json.loads(capsys.readouterr().err)["event"] == "x"


def test_events_below_the_level_are_omitted(capsys: Capture) -> None:
    set_up("info", "json")
    event(log, "x", logging.DEBUG)
    assert said(capsys) == []


def test_libraries_and_warnings_come_in_the_same_form() -> None:
    # In a process of its own: where warnings go and which are shown belongs to a process, and pytest sees to both.
    program = """
import logging, warnings
from sponge_system.logs import set_up

set_up("info", "json")
logging.getLogger("uvicorn.error").warning("Invalid %s received.", "HTTP request")
logging.getLogger("uvicorn.error").info("Started server process")
warnings.warn("an old way", stacklevel=1)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    uvicorn, old = (json.loads(line) for line in ended.stderr.splitlines())
    assert (uvicorn["logger"], uvicorn["event"], uvicorn["text"]) == (
        "uvicorn.error",
        "message",
        "Invalid HTTP request received.",
    )
    assert (old["logger"], "an old way" in str(old["text"])) == ("py.warnings", True)


def test_a_traceback_stays_with_its_event(capsys: Capture) -> None:
    set_up("info", "json")
    try:
        raise ValueError("https://me:secret@example.org")
    except ValueError:
        log.exception("lane.bug")
    (line,) = said(capsys)
    assert "ValueError: https://me:***@example.org" in str(line["exception"])


def test_a_repeated_warning_is_suppressed_and_counted(capsys: Capture, now: list[float]) -> None:
    set_up("info", "json")
    for lane in (1, 1, 2, 1):
        event(log, "lane.lost", logging.WARNING, lane=lane, cause=f"cause {now[0]}")
        now[0] += 1
    assert [(line["lane"], line.get("suppressed")) for line in said(capsys)] == [(1, None), (2, None)]
    now[0] += logs.QUIET_S
    event(log, "lane.lost", logging.WARNING, lane=1)
    event(log, "lane.lost", logging.WARNING, lane=2)
    assert [(line["lane"], line.get("suppressed")) for line in said(capsys)] == [(1, 2), (2, None)]


def test_only_warnings_are_suppressed(capsys: Capture) -> None:
    set_up("info", "json")
    event(log, "x")
    event(log, "x")
    assert len(said(capsys)) == 2


def test_many_different_warnings_do_not_fill_the_memory(now: list[float]) -> None:
    quiet = logs._Quiet(lambda: now[0])
    for number in range(3 * logs.MOST_REMEMBERED):
        assert quiet.filter(logging.LogRecord("a", logging.WARNING, "", 0, f"number {number}", (), None))
    assert len(quiet._said) <= logs.MOST_REMEMBERED


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("file:///models/a@b.pt2", "file:///models/a@b.pt2"),
        ("s3 https://user:pa%20ss@host:80/p?x=1", "s3 https://user:***@host:80/p?x=1"),
        ("https://h/m?X-Amz-Signature=abc&x=1", "https://h/m?X-Amz-Signature=***&x=1"),
        ("https://h/m?access_token=abc", "https://h/m?access_token=***"),
        ("torchvision://resnet18?weights=DEFAULT", "torchvision://resnet18?weights=DEFAULT"),
    ],
)
def test_secrets_in_addresses_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
