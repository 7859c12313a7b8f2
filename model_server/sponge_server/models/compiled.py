"""AOTInductor packages: programs that were compiled ahead of time and are loaded as a library.

A package names neither its inputs nor its largest batch; `sponge compile` writes both to a file beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree

from sponge_server.workers.interface import ModelError

__all__ = ["CPU_LEVELS", "PLATFORM", "Package"]

PLATFORM = "pytorch_aotinductor"

CPU_LEVELS = ("DEFAULT", "AVX2", "AVX512")
"""Names in torch; each level includes the one before."""


class Package:
    """A loaded package; called like the original model."""

    def __init__(self, path: Path, made_by: str, cpu: str) -> None:
        """Loads a package. Raises ModelError when it cannot run here.

        Args:
            made_by: version of torch that compiled it.
            cpu: level of the CPU that it was compiled on, one of `CPU_LEVELS`.
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
