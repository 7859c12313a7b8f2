"""Options of the experiments. What cannot be measured or written is refused before anything runs."""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any, Final

__all__ = ["FOLDER", "arguments", "at_least_one", "at_least_zero", "natural", "positive", "share"]

FOLDER = Path("out/bench")

MOST: Final = 10_000_000
"""No option means more of anything; a slip of the keyboard does."""


def arguments(text: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """An argument parser with the options of every experiment. `text` is the module's docstring."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a fraction of the time, for a first look")
    # The default is text, so that it is looked at like any other folder.
    parser.add_argument("--out", type=_folder, default=str(FOLDER), metavar="DIR", help=f"default {FOLDER}")
    parser.set_defaults(**defaults)
    return parser


def _folder(text: str) -> Path:
    """A folder for results, which is made at once: a run of many minutes must not end with one that cannot be."""
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}; choose a folder that can be written") from None
    return folder


def positive(text: str) -> float:
    """A number above 0, for `type=`. Raises ArgumentTypeError, as the others do."""
    return _number(text, above=0.0, most=MOST, what=f"a number above 0 and at most {MOST}")


def at_least_zero(text: str) -> float:
    """A number from 0 on."""
    return _number(text, above=-math.ulp(0.0), most=MOST, what=f"a number from 0 to {MOST}")


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    return _number(text, above=0.0, most=1.0, what="a number above 0 and at most 1")


def at_least_one(text: str) -> int:
    """A whole number from 1 on."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number from 0 on."""
    return _whole(text, 0)


def _number(text: str, *, above: float, most: float, what: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not above < found <= most:
        raise argparse.ArgumentTypeError(f"{text!r}: give {what}")
    return found


def _whole(text: str, least: int) -> int:
    try:
        found = int(text)
    except ValueError:
        found = -1
    if not least <= found <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} to {MOST}")
    return found
