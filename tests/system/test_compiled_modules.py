"""The compiled core decides like the interpreted one, which runs whenever the compiled one cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import every_decision
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sponge_compiled as compiled

COEFFICIENT = st.floats(0, 0.05)
MODELS = st.tuples(
    # The fixed parallel part is negative in some published fits.
    st.tuples(COEFFICIENT, st.floats(0.001, 0.02), st.floats(-0.005, 0.02), COEFFICIENT),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([0.0, 0.1]),
    st.lists(st.floats(0.5, 2), max_size=3),
    # Factors of a table never fall with the batch.
    st.lists(st.lists(st.floats(1, 2), min_size=1, max_size=4).map(sorted), max_size=3),
)
STATES = st.fixed_dictionaries(
    {
        "cores": st.one_of(st.floats(0.1, 4), st.integers(1, 8).map(float)),
        "room": st.sampled_from([1.0, 2.0, 4.0]),
        "models": st.lists(MODELS, min_size=1, max_size=3),
        "requests": st.lists(st.tuples(st.integers(0, 2), st.floats(0, 0.5), st.floats(0.01, 2)), max_size=30),
        "seen": st.lists(st.tuples(st.floats(5, 10), st.floats(-0.1, 2)), max_size=60).map(sorted),
        "uploads": st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 2)), max_size=5),
        "running": st.lists(st.tuples(st.integers(1, 3), st.floats(0, 0.5), st.floats(-0.1, 1)), max_size=4),
        "cap": st.integers(1, 16),
        "lanes": st.integers(1, 8),
        "resize_s": st.sampled_from([0.0, 0.03, 0.3]),
        "overhead": st.sampled_from([0.0, 0.1]),
    }
)


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Callable[[dict[str, Any]], str]]:
    """Asks a process that runs the core interpreted."""
    with subprocess.Popen(
        [sys.executable, every_decision.__file__],
        env=os.environ | {compiled.SWITCH: "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asks, answers = process.stdin, process.stdout

        def ask(state: dict[str, Any]) -> str:
            asks.write(json.dumps(state) + "\n")
            asks.flush()
            return answers.readline().removesuffix("\n")

        yield ask
        asks.close()


@pytest.mark.skipif(compiled.kind() == "interpreted", reason="no compiled core here: make setup, with a C compiler")
@settings(max_examples=300)
@given(state=STATES)
def test_both_decide_the_same(state: dict[str, Any], interpreted: Callable[[dict[str, Any]], str]) -> None:
    assert every_decision.decided(state) == interpreted(state)


def kind_in_a_new_process(**environment: str) -> str:
    code = "from sponge_compiled import kind; from sponge_core.dispatch.moldable_edf import decide; print(kind())"
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def copied_core(tmp_path: Path) -> Path:
    """A checkout of the core whose folder is to be first on PYTHONPATH."""
    package = tmp_path / compiled.SOURCES.name
    for source in (compiled.SOURCES, Path(compiled.__file__).parent):
        shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def test_the_switch_and_changed_sources_leave_the_core_interpreted(copied_core: Path) -> None:
    path = os.pathsep.join([str(copied_core.parent), os.environ.get("PYTHONPATH", "")])
    assert kind_in_a_new_process(PYTHONPATH=path) == compiled.kind()
    assert kind_in_a_new_process(**{compiled.SWITCH: "0"}) == "interpreted"
    with (copied_core / "dispatch" / "moldable_edf.py").open("a") as source:
        source.write("\n# changed since\n")
    assert kind_in_a_new_process(PYTHONPATH=path) == "interpreted"


def test_a_compiled_copy_that_cannot_be_loaded_leaves_the_core_interpreted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv(compiled.SWITCH, raising=False)
    broken = compiled.folder() / f"unloadable__mypyc{EXTENSION_SUFFIXES[0]}"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no program")
    before = list(sys.path)
    assert compiled._load(compiled.SOURCES, compiled.MODULES["sponge_core"]) is None
    assert sys.path == before
