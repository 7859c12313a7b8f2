"""Compiling the core: uses the cache, names what is missing, and removes old builds."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from sponge_compiled import MODULES, SOURCES, folder
from sponge_system import compile_modules


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_modules, "MODULES", {SOURCES.name: MODULES[SOURCES.name]})
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def cached(tmp_path: Path, key: str) -> Path:
    build = tmp_path / "cache" / "sponge" / f"{key}-mypy-{version('mypy')}"
    build.mkdir(parents=True)
    (build / "shared__mypyc.so").write_text("made before")
    return build


def test_a_build_in_the_cache_is_copied_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached(tmp_path, folder().name)
    assert compile_modules.main() == 0
    assert (folder() / "shared__mypyc.so").read_text() == "made before"
    assert compile_modules.main() == 0
    assert "up to date" in capsys.readouterr().out


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compile_modules, "TOOLS", ("no_such_compiler",))
    assert compile_modules.main() == 1
    said = capsys.readouterr().err
    assert "interpreted" in said
    assert "compiling needs no_such_compiler: pip install" in said
    assert not folder().exists()


def test_without_a_c_compiler_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_modules, "_COMPILER", ("-c", "raise SystemExit('error: command cc failed')"))
    assert compile_modules.main() == 1
    assert "error: command cc failed" in capsys.readouterr().err
    assert not folder().exists()


def test_only_the_newest_builds_are_kept(tmp_path: Path) -> None:
    for age in range(12):
        os.utime(cached(tmp_path, f"{SOURCES.name}-old{age}"), (1000 - age, 1000 - age))
    cached(tmp_path, folder().name)
    assert compile_modules.main() == 0
    left = {build.name.partition("-mypy")[0] for build in (tmp_path / "cache" / "sponge").iterdir()}
    assert left == {folder().name, *(f"{SOURCES.name}-old{age}" for age in range(compile_modules.KEPT - 1))}


def test_the_compiler_finds_every_package_that_the_sources_import(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = "import pathlib; raise SystemExit('error: ' + ' '.join(sorted(p.name for p in pathlib.Path().iterdir())))"
    monkeypatch.setattr(compile_modules, "_COMPILER", ("-c", listing))
    assert compile_modules.main() == 1
    assert "error: sponge_compiled sponge_core" in capsys.readouterr().err
