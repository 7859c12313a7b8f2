"""Reads and edits CHANGELOG.md in the form of Keep a Changelog 1.1.0 (https://keepachangelog.com/en/1.1.0/)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sponge_release.version import VERSION, ReleaseError

__all__ = ["GROUPS", "UNRELEASED", "Section", "notes", "parse", "release"]

GROUPS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
UNRELEASED = "Unreleased"

_SECTION = re.compile(r"## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?")


@dataclass(frozen=True, slots=True)
class Section:
    """One version of the changelog.

    Attributes:
        version: as in pyproject.toml, or `Unreleased`.
        date: of the release, year-month-day; None for `Unreleased`.
        text: what stands under the heading, without surrounding blank lines.
    """

    version: str
    date: str | None
    text: str


def parse(changelog: str) -> list[Section]:
    """The sections, newest first.

    Raises:
        ReleaseError: with line number and fix, when the file is not in the expected form.
    """
    starts: list[tuple[int, str, str | None]] = []
    lines = changelog.splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith("### "):
            if line[4:] not in GROUPS:
                raise ReleaseError(f"CHANGELOG.md:{number}: '{line}': use one of {', '.join(GROUPS)}")
        elif line.startswith("## "):
            heading = _SECTION.fullmatch(line)
            if heading is None:
                raise ReleaseError(f"CHANGELOG.md:{number}: '{line}': write '## [1.2.0] - 2026-01-31'")
            version, date = heading.groups()
            if version == UNRELEASED:
                if date or starts:
                    raise ReleaseError(f"CHANGELOG.md:{number}: [Unreleased] comes first and has no date")
            elif date is None or not VERSION.fullmatch(version):
                raise ReleaseError(f"CHANGELOG.md:{number}: '{line}': write '## [1.2.0] - 2026-01-31'")
            starts.append((number, version, date))
    if not starts or starts[0][1] != UNRELEASED:
        raise ReleaseError("CHANGELOG.md: the first section must be '## [Unreleased]'")
    versions = [version for _, version, _ in starts]
    if len(set(versions)) != len(versions):
        raise ReleaseError("CHANGELOG.md: a version has two sections; merge them")
    ends = [number - 1 for number, _, _ in starts[1:]] + [len(lines)]
    return [
        Section(version, date, "\n".join(lines[number:end]).strip())
        for (number, version, date), end in zip(starts, ends, strict=True)
    ]


def notes(changelog: str, version: str) -> str:
    """The text of one version's section. Raises ReleaseError when there is none or it is empty."""
    text = next((section.text for section in parse(changelog) if section.version == version), "")
    if not text:
        raise ReleaseError(f"CHANGELOG.md has no entries for {version}: add '## [{version}] - DATE' with its changes")
    return text


def release(changelog: str, version: str, date: str) -> str:
    """The changelog with the entries of [Unreleased] under `version`, and an empty [Unreleased] above.

    Raises:
        ReleaseError: the version has a section already, or nothing is unreleased.
    """
    sections = parse(changelog)
    if any(section.version == version for section in sections):
        raise ReleaseError(f"CHANGELOG.md has a section for {version} already: choose the next version")
    if not sections[0].text:
        raise ReleaseError("CHANGELOG.md: [Unreleased] is empty: there is nothing to release")
    heading = f"## [{UNRELEASED}]\n"
    return changelog.replace(heading, f"{heading}\n## [{version}] - {date}\n", 1)
