"""A Python environment for each peer, so that requirements of peers and of the project do not conflict.

It holds the peer's own packages, and links to the project's torch, torchvision, the other runtimes and all that they
require, which saves several gigabytes per peer.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from bench.serving.shared import CACHE
from bench.serving.systems import System
from sponge_core.errors import SpongeError

__all__ = ["environment", "python_of", "set_up"]

CHECK = "import torch, torchvision, numpy, onnxruntime, openvino"
LINKED = ("torch", "torchvision", "onnxruntime", "openvino")
INSTALL_WITHIN_S = 900
STAMP = "sponge-packages"


def environment(system: System) -> Path:
    """The folder of a peer's environment."""
    return CACHE / f"{system.name}-{system.version}"


def python_of(system: System) -> Path:
    """The interpreter of a system's server. Raises SpongeError when its environment is missing."""
    if not system.packages:
        return Path(sys.executable)
    if not _is_current(system):
        command = f"python -m bench.serving setup --systems {system.name}"
        raise SpongeError(f"{system.name} is not installed: run `{command}`")
    return environment(system) / "bin" / "python"


def set_up(system: System) -> None:
    """Creates a system's environment if it is missing or its packages changed. Raises SpongeError with the cause."""
    if not system.packages or _is_current(system):
        return
    folder = environment(system)
    shutil.rmtree(folder, ignore_errors=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    uv = (sys.executable, "-m", "uv")  # the project's own, even if it is not on the PATH
    _run(*uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    python = folder / "bin" / "python"
    no_torch = folder / "no-torch.txt"  # a peer that requires torch gets the project's
    no_torch.write_text("".join(f"{name} ; sys_platform == 'never'\n" for name in ("torch", "torchvision")))
    install = ("pip", "install", "--quiet", "--python", str(python), "--override", str(no_torch))
    _run(*uv, *install, *system.packages)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "sponge-links.pth").write_text(f"{_links()}\n")
    _run(str(python), "-c", CHECK)
    (folder / STAMP).write_text(_stamp(system))


def _is_current(system: System) -> bool:
    stamp = environment(system) / STAMP
    return stamp.is_file() and stamp.read_text() == _stamp(system)


def _stamp(system: System) -> str:
    return "\n".join((*(f"{name}=={distribution(name).version}" for name in LINKED), *system.packages))


def _links() -> Path:
    """A folder with links to the runtimes and their requirements in the project's environment."""
    names, todo = set[str](), [*LINKED]
    entries: dict[str, Path] = {}
    while todo:
        name = todo.pop()
        if name in names:
            continue
        names.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # required on other platforms only
        for file in found.files or ():
            if file.parts[0] not in ("..", "__pycache__"):
                entries[file.parts[0]] = Path(str(found.locate_file(file.parts[0])))
        wanted = (r for r in found.requires or () if "extra ==" not in r)
        todo += [match[0] for r in wanted if (match := re.match(r"[A-Za-z0-9._-]+", r))]
    listing = "\n".join(f"{name} {path}" for name, path in sorted(entries.items()))
    folder = CACHE / f"torch-{hashlib.sha256(listing.encode()).hexdigest()[:8]}"
    if not folder.is_dir():
        making = folder.with_suffix(".new")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        for name, path in entries.items():
            (making / name).symlink_to(path)
        making.rename(folder)
    return folder


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_WITHIN_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SpongeError(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise SpongeError(f"`{' '.join(command[:4])} ...` failed: {' / '.join(said[-6:])}")
