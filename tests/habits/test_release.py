"""The release tools: the changelog's form, the one place of the version, and the copies made from one source."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from sponge_release import __main__ as command
from sponge_release import changelog, copies, version

ROOT = Path(__file__).parents[2]
GOOD = """# Changelog

## [Unreleased]

### Added

- A thing.

## [0.1.0] - 2026-01-31

### Fixed

- Another thing.
"""


def tree(tmp_path: Path) -> Path:
    """A copy of the files that a release writes."""
    for path in (
        "pyproject.toml",
        "CHANGELOG.md",
        "crds",
        "deploy/gateway",
        "deploy/grafana",
        "deploy/helm",
        "deploy/kserve",
        "deploy/prometheus",
    ):
        source, target = ROOT / path, tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    return tmp_path


def test_the_source_tree_passes_its_own_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["check"]) == 0, capsys.readouterr().err


def test_copies_equal_their_sources() -> None:
    assert copies.stale() == [], "run `make sync`"


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((ROOT / "deploy/helm/sponge/Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version.read_version()


def test_sync_writes_what_differs_and_nothing_else(tmp_path: Path) -> None:
    root = tree(tmp_path)
    assert copies.sync(root) == []
    chart = root / "deploy/helm/sponge"
    (root / "crds/spongeservice.yaml").write_text("kind: Changed\n")
    version.write_version("1.2.0rc1", root)
    written = copies.sync(root)
    found = sorted(path.name for path in written)
    assert found == ["Chart.yaml", "inference-pool.yaml", "runtime.yaml", "spongeservice.yaml", "values.yaml"]
    assert (chart / "crds/spongeservice.yaml").read_text() == "kind: Changed\n"
    assert yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"] == "1.2.0rc1"
    assert yaml.safe_load((chart / "values.yaml").read_text())["server"]["image"] == "sponge-server:1.2.0rc1"
    assert version.read_version(root) == "1.2.0rc1"
    assert copies.stale(root) == []


def test_a_missing_copy_is_written(tmp_path: Path) -> None:
    root = tree(tmp_path)
    dashboard = root / "deploy/helm/sponge/files/sponge.json"
    dashboard.unlink()
    assert copies.stale(root) == [dashboard.relative_to(root)]
    copies.sync(root)
    assert dashboard.is_file()


@pytest.mark.parametrize("wrong", ["1.2", "v1.2.0", "1.2.0-rc1", ""])
def test_an_invalid_version_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(version.ReleaseError, match=r"write it as 1\.2\.0"):
        version.write_version(wrong, tree(tmp_path))


def test_sections_and_notes() -> None:
    first, second = changelog.parse(GOOD)
    assert (first.version, first.date, first.text) == ("Unreleased", None, "### Added\n\n- A thing.")
    assert (second.version, second.date) == ("0.1.0", "2026-01-31")
    assert changelog.notes(GOOD, "0.1.0") == "### Fixed\n\n- Another thing."


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("### Added", "### New", "'### New': use one of Added, Changed"),
        ("## [0.1.0] - 2026-01-31", "## 0.1.0", r"write '## \[1.2.0\] - 2026-01-31'"),
        ("## [0.1.0] - 2026-01-31", "## [0.1.0]", r"write '## \[1.2.0\] - 2026-01-31'"),
        ("## [0.1.0] - 2026-01-31", "## [v0.1.0] - 2026-01-31", r"write '## \[1.2.0\] - 2026-01-31'"),
        ("## [Unreleased]", "## [0.2.0] - 2026-02-01", r"first section must be '## \[Unreleased\]'"),
        ("## [Unreleased]", "## [Unreleased] - 2026-02-01", "has no date"),
        ("- Another thing.", "- Another thing.\n\n## [0.1.0] - 2026-01-30", "two sections"),
    ],
)
def test_a_changelog_in_another_form_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(version.ReleaseError, match=message):
        changelog.parse(GOOD.replace(old, new))


def test_a_release_moves_the_unreleased_entries_under_the_version() -> None:
    released = changelog.release(GOOD, "0.2.0", "2026-02-01")
    assert [(s.version, s.date) for s in changelog.parse(released)] == [
        ("Unreleased", None),
        ("0.2.0", "2026-02-01"),
        ("0.1.0", "2026-01-31"),
    ]
    assert changelog.notes(released, "0.2.0") == "### Added\n\n- A thing."
    command.check("0.2.0", released, "v0.2.0")
    with pytest.raises(version.ReleaseError, match="nothing to release"):
        changelog.release(released, "0.3.0", "2026-02-02")
    with pytest.raises(version.ReleaseError, match="already"):
        changelog.release(GOOD, "0.1.0", "2026-02-02")


@pytest.mark.parametrize(
    ("number", "tag", "message"),
    [
        ("0.2.0", None, r"no entries for 0.2.0: add '## \[0.2.0\]"),
        ("0.1.0", "0.1.0", "the tag must be v0.1.0"),
        ("0.1.0", "v0.2.0", "the tag must be v0.1.0"),
        ("0.1.0", "v0.1.0", "still has entries"),
    ],
)
def test_what_a_tag_must_fulfil(number: str, tag: str | None, message: str) -> None:
    with pytest.raises(version.ReleaseError, match=message):
        command.check(number, GOOD, tag)


def test_a_tag_is_for_the_newest_section() -> None:
    text = changelog.release(GOOD, "0.2.0", "2026-02-01")
    with pytest.raises(version.ReleaseError, match=r"newest section is 0\.2\.0"):
        command.check("0.1.0", text, "v0.1.0")
