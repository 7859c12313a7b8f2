"""AOTInductor packages: programs that were compiled ahead, loaded as a library and never compiled here.

A package says neither which inputs it takes nor how large a batch; `sponge compile` writes that beside it.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree

from sponge_server.workers.interface import ModelError

__all__ = ["CPU_LEVELS", "PLATFORM", "Package", "is_package"]

PLATFORM = "pytorch_aotinductor"

CPU_LEVELS = ("DEFAULT", "AVX2", "AVX512")
"""As torch names them, each with all that the one before has."""


def is_package(path: Path) -> bool:
    """Whether the file holds a compiled program. False for whatever else it may be."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/data/aotinductor/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


class Package:
    """A loaded package; called as the model that it was made of."""

    def __init__(self, path: Path, made_by: str, cpu: str) -> None:
        """Raises ModelError when it cannot run here.

        Args:
            made_by: the torch version that compiled it.
            cpu: the level of the CPU that it was compiled on.
        """
        here = torch.backends.cpu.get_cpu_capability()
        if cpu in CPU_LEVELS and (here not in CPU_LEVELS or CPU_LEVELS.index(here) < CPU_LEVELS.index(cpu)):
            raise ModelError(f"'{path}' was compiled for a CPU with {cpu}, this one has {here}: compile it here")
        try:
            # The same loader as torch._inductor.aoti_load_package, without importing the compiler: 2 s and 90 MB less.
            # One thread runs it, so it needs no locks; -1 is the device it was compiled for.
            loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, -1)
        except Exception as error:  # noqa: BLE001 - the loader raises anything
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ModelError(
                f"'{path}' cannot be loaded ({line}); it was compiled by torch {made_by}, this is {torch.__version__}"
            ) from None
        self._run = loader.boxed_run
        self._outputs = _pytree.treespec_loads(loader.get_call_spec()[1])

    def __call__(self, *inputs: torch.Tensor) -> Any:
        return _pytree.tree_unflatten(self._run(list(inputs)), self._outputs)
