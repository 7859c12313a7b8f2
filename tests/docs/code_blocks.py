"""Reads the code blocks of a page and runs its console blocks as a reader would: one after the other, in one folder.

A comment above a block says how it is tested: `<!-- run: cluster -->` needs the local cluster, and
`<!-- run: no, REASON -->` is not run. A block without a comment runs everywhere.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PAGES = (
    *("README.md", "docs/tutorial.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "guides").glob("*.md")),
)
"""Pages whose code blocks are tested."""

RUN = ("README.md", "docs/tutorial.md", "docs/guides/your-model.md", "docs/guides/capacity.md")
"""Those of which every console block is run, unless its comment says otherwise."""

RUN_IN_CLUSTER = RUN[:2]
"""Those with blocks that need a cluster."""

PATIENCE_S = 280.0
SERVING = ("sponge serve", "kubectl port-forward")
"""Commands that run until they are stopped; the next command is for a second terminal."""

_BLOCK = re.compile(
    r"(?:<!-- run: (?P<how>[a-z]+)(?:, (?P<why>[^\n]*))? -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = re.compile(r"(?:(?<!\w)-)?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block with the output that the page shows."""

    text: str
    expected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A code block of a page; `how` is `yes`, `cluster` or `no`."""

    page: str
    line: int
    language: str
    text: str
    how: str

    @property
    def commands(self) -> list[Command]:
        """What follows each `$ `, with lines that end in a backslash joined."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found and not found[-1][1] and found[-1][0].endswith("\\"):
                found[-1] = (f"{found[-1][0]}\n{line}", [])
            else:
                found[-1][1].append(line)
        return [Command(text, tuple(expected)) for text, expected in found]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """Every block of the page, top to bottom; the page's path is relative to the project."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["text"], found["how"] or "yes")
        for found in _BLOCK.finditer(text)
    ]


def blocks_in(pages: tuple[str, ...], language: str) -> list[Block]:
    """The blocks of one language on these pages."""
    return [block for page in pages for block in blocks_of(page) if block.language == language]


def manifests() -> list[tuple[Block, dict[str, Any]]]:
    """Every SpongeService that a page shows."""
    every = [(block, each) for block in blocks_in(PAGES, "yaml") for each in yaml.safe_load_all(block.text)]
    return [(block, each) for block, each in every if isinstance(each, dict) and each.get("kind") == "SpongeService"]


def shows(expected: tuple[str, ...], output: str) -> str | None:
    """The first expected line that the output lacks, or None. Any number stands for any other, and `...` for anything.

    Other lines may stand between those expected; a table's borders and widths do not matter.
    """
    lines = [_plain(line) for line in output.splitlines()]
    at = 0
    for line in expected:
        if line.strip() in ("", "..."):
            continue
        pattern = re.compile(".*".join(re.escape(part) for part in _plain(line).split("...")))
        while at < len(lines) and not pattern.fullmatch(lines[at]):
            at += 1
        if at == len(lines):
            return line
        at += 1
    return None


def _plain(line: str) -> str:
    return " ".join(_NUMBER.sub("#", line).split())


@dataclass(slots=True)
class Terminal:
    """A shell session in `folder`: variables and files stay from one command to the next.

    Attributes:
        replaced: texts of the commands that are replaced, such as a port that another test may use.
    """

    folder: Path
    environment: dict[str, str]
    replaced: dict[str, str] = field(default_factory=dict)
    _running: list[subprocess.Popen[str]] = field(default_factory=list)

    @classmethod
    def opened(cls, folder: Path, **variables: str) -> Terminal:
        """With this environment's commands on the PATH, as after `. .venv/bin/activate`."""
        for name in ("deploy", "crds"):
            (folder / name).symlink_to(ROOT / name)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        # Whatever this machine sets for Sponge is not what the reader has.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SPONGE_")}
        return cls(folder, inherited | {"PATH": path, "COLUMNS": "120"} | variables)

    def run(self, block: Block) -> None:
        """Runs the block's commands; fails with the page's line if one fails or prints something else."""
        for command in block.commands:
            text = self._replace(command.text)
            output = self._serve(text) if command.text.startswith(SERVING) else self._finish(text, block)
            lacks = shows(command.expected, output)
            assert lacks is None, f"{block}: $ {command.text}\nthe page shows: {lacks}\nit printed:\n{output}"

    def python(self, block: Block) -> str:
        """Runs a Python block as a script and returns what it printed."""
        return self._finish(f"{shlex.quote(sys.executable)} -c {shlex.quote(self._replace(block.text))}", block)

    def close(self) -> None:
        """Ends what still runs."""
        for process in reversed(self._running):
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def _replace(self, text: str) -> str:
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        return text

    def _finish(self, text: str, block: Block) -> str:
        kept = self.folder / ".environment"
        done = subprocess.run(
            ["bash", "-c", f"{text}\ncode=$?\nenv -0 > {shlex.quote(str(kept))}\nexit $code"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{block}: $ {text}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
        self.environment = dict(
            entry.partition("=")[::2] for entry in kept.read_text().split("\0") if not entry.startswith("BASH_FUNC")
        )
        return done.stdout

    def _serve(self, text: str) -> str:
        """Starts the command and returns the line that says that it is ready."""
        if text.startswith("sponge serve"):
            text += " --http-port 0 --control-port 0"
        log = self.folder / f"serving-{len(self._running)}"
        with log.open("w") as errors:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {text}"],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._running.append(process)
        line = _first_line(process)
        assert line, f"$ {text}\nnot ready after {PATIENCE_S:g} s:\n{log.read_text()}"
        if addresses := re.findall(r"http://([\d.]+:\d+)", line):
            self.replaced |= dict(zip(("127.0.0.1:8080", "127.0.0.1:9090"), addresses, strict=True))
            self.environment["SPONGE_LOAD_URL"] = f"http://{addresses[0]}"
        return line


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        if line := process.stdout.readline():
            return line
        time.sleep(0.05)
    return ""


def crd_complaints(document: object, schema: Mapping[str, object], path: str = "") -> list[str]:
    """What a manifest has that the resource's schema does not, or lacks: names, required fields and plain types."""
    match schema.get("type"):
        case "object" if not isinstance(document, dict):
            return [f"{path} is not an object"]
        case "array":
            items = schema["items"]
            assert isinstance(items, dict)
            if not isinstance(document, list):
                return [f"{path} is not a list"]
            return [text for each in document for text in crd_complaints(each, items, f"{path}[]")]
        case "string" if not isinstance(document, str):
            return [f"{path} is not a string"]
        case "integer" if not isinstance(document, int) or isinstance(document, bool):
            return [f"{path} is not a whole number"]
        case "number" if not isinstance(document, int | float) or isinstance(document, bool):
            return [f"{path} is not a number"]
        case "object":
            assert isinstance(document, dict)
            known = schema.get("properties", {})
            required = schema.get("required", ())
            assert isinstance(known, dict)
            assert isinstance(required, list | tuple)
            found = [f"{path}.{name} is missing" for name in required if name not in document]
            for name, value in document.items():
                if name in known:
                    found += crd_complaints(value, known[name], f"{path}.{name}")
                elif known and not schema.get("x-kubernetes-preserve-unknown-fields"):
                    found.append(f"{path}.{name} is unknown")
            return found
    choices = schema.get("enum")
    return [f"{path} is none of {choices}"] if isinstance(choices, list) and document not in choices else []
