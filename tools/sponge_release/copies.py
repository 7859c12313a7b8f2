"""Brings every copy up to date with its one source: CRD, dashboard, alerts, and the version in the Helm chart.

`make sync` writes the copies. `python -m sponge_release.copies --check` only lists those that differ, and exits with 1.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sponge_release.version import ROOT, ReleaseError, read_version

__all__ = ["FILES", "main", "stale", "sync"]

CHART = Path("deploy/helm/sponge")

FILES = {
    Path("crds/spongeservice.yaml"): CHART / "crds/spongeservice.yaml",
    Path("deploy/grafana/sponge.json"): CHART / "files/sponge.json",
    Path("deploy/prometheus/alerts.yaml"): CHART / "files/alerts.yaml",
}
"""Source -> copy. Helm packages only what is inside the chart's own folder."""

VERSIONS = {
    CHART / "Chart.yaml": (r"^version: (.+)$", r"^appVersion: (.+)$"),
    CHART / "values.yaml": (r"^  image: sponge-server:(.+)$",),
    Path("deploy/gateway/inference-pool.yaml"): (r"^          image: sponge-operator:(.+)$",),
    Path("deploy/kserve/runtime.yaml"): (r"^      image: sponge-server:(.+)$",),
}
"""File -> patterns whose group is the version; each must occur exactly once."""


def _expected(root: Path) -> dict[Path, str]:
    """The text that every copy should have."""
    texts = {copy: (root / source).read_text(encoding="utf-8") for source, copy in FILES.items()}
    version = read_version(root)
    for path, patterns in VERSIONS.items():
        text = (root / path).read_text(encoding="utf-8")
        for pattern in patterns:
            found = list(re.finditer(pattern, text, re.MULTILINE))
            if len(found) != 1:
                raise ReleaseError(f"{path}: {len(found)} lines match {pattern!r}, expected one")
            text = text[: found[0].start(1)] + version + text[found[0].end(1) :]
        texts[path] = text
    return texts


def stale(root: Path = ROOT) -> list[Path]:
    """The copies that differ from their source, relative to `root`."""
    return [
        path
        for path, text in _expected(root).items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]


def sync(root: Path = ROOT) -> list[Path]:
    """Writes the copies that differ, and returns them."""
    expected = _expected(root)
    written = stale(root)
    for path in written:
        (root / path).write_text(expected[path], encoding="utf-8")
    return written


def main() -> int:
    """Runs the command line; returns the exit code."""
    if sys.argv[1:] == ["--check"]:
        differing = stale()
        for path in differing:
            print(f"{path} differs from its source: run `make sync`", file=sys.stderr)
        return 1 if differing else 0
    for path in sync():
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
