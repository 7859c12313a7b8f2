"""Reads the worked changes of CONTRIBUTING.md, applies them to a copy of the source tree, and runs their commands.

A section under "Three worked changes" holds fenced blocks, which are carried out in order:
- with `title="PATH"`: a new file, or in language `diff` the changes to a file, with `@@` between places;
- in language `console`: commands after `$`, each followed by the output to expect, where `...` stands for any text.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "ChangeError", "Command", "apply", "commands", "copy_tree", "matches", "run", "sections"]

FOLDERS = ("core", "profiles", "model_server", "operator", "simulator", "client", "front", "cli", "tools")
COPIED = (*FOLDERS, "bench", "tests", "docs", "deploy", "crds", "pyproject.toml", "README.md", "CONTRIBUTING.md")
CHAPTER = "## Three worked changes"
LEFT_OUT = shutil.ignore_patterns("__pycache__", "figures", "*.svg", "*.png", "*.gz")
TIMEOUT_S = 200.0
MOST_OUTPUT = 5000
"""Characters of a command's output that an error shows."""

_FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class ChangeError(Exception):
    """A worked change no longer fits the source tree; the message says which part and what to edit."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language, the path in its title ("" for none), and its text."""

    language: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A shell command, and the output to expect, "" for any."""

    line: str
    expected: str


def sections(document: str) -> dict[str, list[Block]]:
    """The blocks of every worked change, by the title of its section."""
    chapter = document.partition(f"\n{CHAPTER}\n")[2].partition("\n## ")[0]
    found: dict[str, list[Block]] = {}
    for part in re.split(r"^### ", chapter, flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        found[title] = [Block(language, path, body) for language, path, body in _FENCE.findall(text)]
    return found


def copy_tree(root: Path, target: Path) -> None:
    """Copies what the commands of the worked changes need."""
    target.mkdir(parents=True)
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=LEFT_OUT)
        else:
            shutil.copy(source, target / name)


def apply(block: Block, tree: Path) -> None:
    """Creates or changes a file. Raises ChangeError when the tree has changed so that the block no longer fits."""
    path = tree / block.path
    if block.language != "diff":
        if path.exists():
            raise ChangeError(f"CONTRIBUTING.md creates {block.path}, but the file exists: choose another name there")
        if not path.parent.is_dir():
            raise ChangeError(f"CONTRIBUTING.md creates {block.path}, but there is no folder {path.parent.name}")
        path.write_text(block.text, encoding="utf-8")
        return
    if not path.is_file():
        raise ChangeError(f"CONTRIBUTING.md changes {block.path}, but there is no such file: correct the title there")
    text = path.read_text(encoding="utf-8")
    for hunk in re.split(r"^@@.*\n", block.text, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        count = text.count(old)
        if count != 1:
            raise ChangeError(
                f"CONTRIBUTING.md changes {block.path}, but these lines occur {count} times there, expected once:\n"
                f"{old}Adapt the worked change to the file as it is now."
            )
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def commands(block: Block) -> list[Command]:
    """The commands of a `console` block."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    return [Command(line, expected.strip()) for line, _, expected in (part.partition("\n") for part in parts)]


def matches(expected: str, output: str) -> bool:
    """Whether `output` is what `expected` shows; `...` stands for any text, and white space does not count."""
    shown = " ".join(expected.split())
    pattern = re.escape(shown).replace(r"\.\.\.", ".*").replace(r"\ .*", ".*").replace(r".*\ ", ".*")
    return not shown or re.fullmatch(pattern, " ".join(output.split()), re.DOTALL) is not None


def run(command: Command, tree: Path) -> None:
    """Runs a command in the tree, with the tree's own packages.

    Raises:
        ChangeError: the command failed, or printed something else than expected.
    """
    foreign = ("PYTEST", "COV_", "COVERAGE")  # of the test run that this is a part of
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(str(tree / folder) for folder in FOLDERS),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        command.line,
        shell=True,
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    output = done.stdout + done.stderr
    if done.returncode != 0:
        raise ChangeError(f"CONTRIBUTING.md: `{command.line}` exits with {done.returncode}:\n{output[-MOST_OUTPUT:]}")
    if not matches(command.expected, output):
        shown = output[-MOST_OUTPUT:]
        raise ChangeError(f"CONTRIBUTING.md: `{command.line}` should print\n{command.expected}\nbut prints\n{shown}")
