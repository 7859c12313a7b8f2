"""The command line of every peer's script: whole numbers, one option a knob. Runs in the peer's own environment."""

from __future__ import annotations

import argparse

__all__ = ["options"]


def options(description: str | None, *names: str) -> argparse.Namespace:
    """`--port` and `--NAME` for each of `names`, all of them required; what else is on the line is the peer's own."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    for name in ("port", *names):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, required=True)
    return parser.parse_known_args()[0]
