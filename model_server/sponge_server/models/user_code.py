"""Errors of a model's own code in one line: what was raised, and the file and line of that code, not of a library."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from sponge_server.workers.interface import ModelError

__all__ = ["close_to", "imported", "named_in", "said"]

_LONGEST = 300
_HERE = str(Path(__file__).parents[1])
_LIBRARIES = ("site-packages", "dist-packages", f"{sys.base_prefix}/lib", "<frozen", _HERE)


def said(error: BaseException) -> str:
    """The error and where the model's own code raised it, such as `ValueError: no labels (mine.py, line 7, in load)`.

    A missing package is named with the command that installs it.
    """
    if isinstance(error, SystemExit):
        text = f"it tried to exit the process (code {error.code})"
    elif isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename or '?').name}, line {error.lineno})"
    else:
        lines = [line for line in str(error).splitlines() if line.strip()]
        text = type(error).__name__ + (f": {lines[0][:_LONGEST]}" if lines else "")
    where = _own_frame(error)
    text += f" ({where})" if where else ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        text += f": install {package} where the server runs (pip install {package}, or in its image)"
    return text


def imported(target: str, url: str) -> ModuleType:
    """The module of a dotted name, or of an absolute path that ends in .py. Raises ModelError."""
    try:
        if target.endswith(".py"):
            return _from_file(Path(target), url)
        return importlib.import_module(target)
    except ModelError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (target == error.name or target.startswith(error.name + ".")):
            raise ModelError(
                f"model source '{url}': {error}: put the folder of {error.name} on PYTHONPATH, or write "
                "python:///absolute/path/to/file.py:factory"
            ) from None
        raise ModelError(f"model source '{url}': {target} cannot be imported: {said(error)}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the module is somebody's own code
        raise ModelError(f"model source '{url}': {target} cannot be imported: {said(error)}") from None


def named_in(module: ModuleType, name: str, url: str) -> Any:
    """The factory of that name. Raises ModelError, with the names that it may have."""
    found = getattr(module, name, None)
    if callable(found):
        return found
    own = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
    what = "has no attribute" if found is None else "has no function or class, but a value of that name,"
    text = f"model source '{url}': module '{module.__name__}' {what} '{name}'; write python://package.module:factory"
    raise ModelError(text + close_to(name, own))


def close_to(name: str, known: Iterable[str]) -> str:
    """The end of a message that says which known names are close to a wrong one."""
    close = difflib.get_close_matches(name, list(known), 3, 0.5)
    return f"; close: {', '.join(close)}" if close else ""


def _from_file(path: Path, url: str) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"model source '{url}': no file '{path}': give its absolute path on the server, or mount it")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As `python FILE` does: its neighbours can be imported, and pickles in its code find it by name.
    sys.path.insert(0, str(path.parent))
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _own_frame(error: BaseException) -> str:
    """Place of the last frame that is neither of a library nor of this server; empty if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(part in frame.filename for part in _LIBRARIES):
            return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
    return ""
