"""Prepares and checks a release: `python -m sponge_release check|notes|prepare`.

`check` runs before every merge. `check --tag v1.2.0` runs on a tag and also wants that tag's version, with nothing left
under [Unreleased]. `notes` prints the changelog of the current version. `prepare 1.2.0` writes the version everywhere.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from sponge_release import changelog, copies
from sponge_release.version import ROOT, ReleaseError, read_version, write_version

__all__ = ["check", "main"]

CHANGELOG = "CHANGELOG.md"


def check(version: str, text: str, tag: str | None = None) -> None:
    """Raises ReleaseError when the source tree is not fit for a release.

    Args:
        version: of pyproject.toml.
        text: of the changelog.
        tag: the git tag to be released; None when no tag is there yet.
    """
    changelog.notes(text, version)
    if tag is None:
        return
    if tag != f"v{version}":
        raise ReleaseError(
            f"tag '{tag}' does not match version {version} of pyproject.toml: the tag must be v{version}"
        )
    sections = changelog.parse(text)
    if sections[0].text:
        raise ReleaseError(f"{CHANGELOG}: [Unreleased] still has entries: run `make release VERSION=...`")
    if sections[1].version != version:
        raise ReleaseError(f"{CHANGELOG}: the newest section is {sections[1].version}, not {version}")


def _prepare(version: str, today: str) -> None:
    path = ROOT / CHANGELOG
    text = changelog.release(path.read_text(encoding="utf-8"), version, today)
    write_version(version)
    path.write_text(text, encoding="utf-8")
    copies.sync()
    print(f"Version {version} is written. Review the changes, merge them, then tag the merge commit:")
    print(f"  git tag -a v{version} -m 'Sponge {version}' && git push origin v{version}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="sponge_release", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="check version, changelog and copies").add_argument("--tag", help="as in v1.2.0")
    commands.add_parser("notes", help="print the changelog of the current version")
    commands.add_parser("prepare", help="write a new version everywhere").add_argument("version", help="as in 1.2.0")
    options = parser.parse_args(arguments)
    try:
        text = (ROOT / CHANGELOG).read_text(encoding="utf-8")
        version = read_version()
        match options.command:
            case "check":
                check(version, text, options.tag)
                if differing := copies.stale():
                    raise ReleaseError(f"run `make sync`: {', '.join(map(str, differing))} differ from their source")
                print(f"version {version}: changelog, chart and copies agree")
            case "notes":
                print(changelog.notes(text, version))
            case "prepare":
                _prepare(options.version, datetime.now(UTC).date().isoformat())
    except ReleaseError as error:
        print(f"sponge_release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
