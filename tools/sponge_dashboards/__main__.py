"""Writes deploy/grafana/sponge.json; with --check, says whether it is up to date and exits with 1 if not."""

from __future__ import annotations

import sys

from sponge_dashboards.document import DASHBOARD, render


def main() -> int:
    """Runs the command line; returns the exit code."""
    text = render()
    if DASHBOARD.is_file() and DASHBOARD.read_text(encoding="utf-8") == text:
        return 0
    if sys.argv[1:] == ["--check"]:
        print(f"{DASHBOARD} is not what tools/sponge_dashboards makes: run `make dashboards`", file=sys.stderr)
        return 1
    DASHBOARD.write_text(text, encoding="utf-8")
    print(f"wrote {DASHBOARD}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
