"""Imports torchvision without torch's compiler, which it needs for one question of one operator.

The compiler takes half as long to import as all the rest together, and a model that runs eagerly never uses it. It is
imported once somebody asks that question, or asks for anything else of it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

__all__ = ["without_compiler"]

_NAME = "torch._dynamo.utils"
"""The module that `torchvision.ops.roi_align` takes `is_compile_supported` from."""


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """For the time of an import, has a stand-in take the place of that module, unless the compiler is there."""
    if _NAME in sys.modules:
        yield
        return
    stand_in = _StandIn(_NAME)
    sys.modules[_NAME] = stand_in
    try:
        yield
    finally:
        stand_in.leave()


class _StandIn(ModuleType):
    """Has one function; whatever else is asked of it comes from the module itself."""

    def leave(self) -> None:
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]

    def is_compile_supported(self, device: str) -> bool:
        return bool(importlib.import_module(_NAME).is_compile_supported(device))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for those
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(_NAME), name)
