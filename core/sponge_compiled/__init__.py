"""Lets packages import compiled copies of their hot modules.

`python -m sponge_system.compile_modules` compiles the modules with mypyc into the Python environment, in a folder named
by a hash of the sources and the interpreter's ABI. If that folder exists, the packages look there first. If it does not
exist or cannot be loaded, or the sources have changed since, everything runs interpreted, with the same results. A
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
"""Set this environment variable to 0 to run everything interpreted, for a debugger or a comparison."""

SOURCES = Path(__file__).parents[1] / "sponge_core"

MODULES = {
    "sponge_core": (
        "bursts",
        "cpu_sharing",
        "dispatch/batch_sizing",
        "dispatch/decision",
        "dispatch/idle_start",
        "dispatch/load_shedding",
        "dispatch/moldable_edf",
        "dispatch/size_matching",
        "dispatch/sized_edf",
        "dispatch/step",
        "edf_queue",
        "forecast",
        "latency",
        "planning/frontier",
        "planning/projection",
        "queue_room",
        "routing/pod_replay",
    ),
    "sponge_simulator": ("fleet", "replica"),
}
"""By package: the modules worth compiling, which decisions, projections and simulated events run through."""

_found: dict[str, Path | None] = {}
"""By package: the folder of its compiled modules; None: interpreted."""


def folder(sources: Path = SOURCES, modules: Sequence[str] = MODULES["sponge_core"]) -> Path:
    """The folder of the compiled copy of a package's modules, existing or not.

    Its name depends on the core's modules too, because other packages call them directly.

    Args:
        sources: the package's folder.
        modules: paths of the modules in it, without suffix.
    """
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
    """Puts the compiled modules of a package before its sources in its search path.

    A package of `MODULES` calls it when it is imported, and so does each subpackage that holds such modules.

    Args:
        package: its full name.
        path: its `__path__`, which is changed.
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
    # The extension modules share code in a module beside them, which they import by name.
    sys.path.append(str(found))
    try:
        importlib.import_module(shared.name.removesuffix(EXTENSION_SUFFIXES[0]))
    except ImportError:  # built for another C library
        sys.path.remove(str(found))
        return None
    return found
