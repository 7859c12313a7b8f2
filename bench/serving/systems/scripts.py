"""How a peer's own script in `bench/serving/peers` is called: as a module, with one option a knob."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.serving.systems.interface import Knobs, Launch, Wire

__all__ = ["post_tensor", "run_script"]


def run_script(python: Path, script: str, port: int, knobs: Knobs, env: Mapping[str, str] | None = None) -> Launch:
    """Runs `bench.serving.peers.SCRIPT`. As a module, so that it can import the package that it is named after."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in knobs.items()]
    return Launch((str(python), "-m", f"bench.serving.peers.{script}", f"--port={port}", *options), env or {})


def post_tensor(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Wire:
    """The raw tensor as the whole body."""
    return Wire("POST", path, {"Content-Type": "application/octet-stream", **(headers or {})}, (body,))
