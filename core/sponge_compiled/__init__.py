"""Finds compiled copies of hot modules, made of these very sources, for imports to use instead of them.

`python -m sponge_system.compile_modules` compiles them with mypyc into the Python environment, in a folder named by a
hash of the sources and the interpreter's binary interface. Where such a folder is, the packages look there first. Where
none is, it cannot be loaded, or the sources have changed since, everything runs interpreted and decides the same. A
package calls `look_there_first` once, when it is imported.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import MutableSequence, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

__all__ = ["MODULES", "SOURCES", "SWITCH", "folder", "kind", "look_there_first"]

SWITCH = "SPONGE_COMPILED_CORE"
"""This environment variable set to 0 keeps everything interpreted, for a debugger or a comparison."""

SOURCES = Path(__file__).parents[1] / "sponge_core"

MODULES = {
    "sponge_core": (
        "cpu_sharing",
        "dispatch/batch_sizing",
        "dispatch/decision",
        "dispatch/load_shedding",
        "dispatch/moldable_edf",
        "edf_queue",
        "forecast",
        "latency",
        "planning/frontier",
        "planning/projection",
    ),
    "sponge_simulator": ("fleet", "replica"),
}
"""By package: the modules worth compiling, those that a decision, a projection or a simulated event runs through."""

_found: dict[str, Path | None] = {}
"""By package: where its compiled modules are."""


def folder(sources: Path = SOURCES, modules: Sequence[str] = MODULES["sponge_core"]) -> Path:
    """Where the compiled copy of a package's modules is, or would be. What they do depends on the core's, too."""
    digest = hashlib.sha256(EXTENSION_SUFFIXES[0].encode())
    for source in sorted(
        {SOURCES / f"{module}.py" for module in MODULES["sponge_core"]} | {sources / f"{m}.py" for m in modules}
    ):
        digest.update(source.read_bytes())
    return Path(sys.prefix) / "lib" / "sponge-core" / f"{sources.name}-{digest.hexdigest()[:16]}"


def kind() -> str:
    """How the core runs in this process: `compiled` or `interpreted`. Loads the core's package if nothing has yet."""
    if SOURCES.name not in _found:
        importlib.import_module(SOURCES.name)
    return "interpreted" if _found[SOURCES.name] is None else "compiled"


def look_there_first(package: str, path: MutableSequence[str]) -> None:
    """Lets a package, whose search path this is, find compiled modules before its sources.

    A package of `MODULES` calls it when it is imported, and so does each package inside it that holds such modules.
    """
    top, *inner = package.split(".")
    if not inner:
        _found[top] = _load(Path(path[0]), MODULES[top])
    found = _found[top]
    if found is not None:
        path.insert(0, str(found.joinpath(top, *inner)))


def _load(sources: Path, modules: Sequence[str]) -> Path | None:
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        found = folder(sources, modules)
        shared = next(found.glob(f"*__mypyc{EXTENSION_SUFFIXES[0]}"), None)
    except OSError:
        return None
    if shared is None:
        return None
    # What the extension modules have in common is a module of its own beside them; they import it by name.
    sys.path.append(str(found))
    try:
        importlib.import_module(shared.name.removesuffix(EXTENSION_SUFFIXES[0]))
    except ImportError:  # made for another C library
        sys.path.remove(str(found))
        return None
    return found
