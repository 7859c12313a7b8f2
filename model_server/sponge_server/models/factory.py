"""`python://package.module:factory`: your own model; `factory()` returns a `LoadedModel`.

The module is imported in the fork server, so it must not start threads.
"""

from __future__ import annotations

import importlib

from sponge_server.models.loaded import LoadedModel
from sponge_server.models.source import Source
from sponge_server.workers.interface import ModelError

__all__ = ["load"]


def load(source: Source) -> LoadedModel:
    """Calls the factory. Raises ModelError when there is none or it returns something else."""
    source.only()
    module_name, _, function = source.target.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), function)
    except (ImportError, ValueError, AttributeError) as error:
        raise ModelError(f"model source '{source.url}': {error}; write python://package.module:factory") from None
    loaded = factory()
    if not isinstance(loaded, LoadedModel):
        raise ModelError(
            f"model source '{source.url}': {function}() returned {type(loaded).__name__}, expected a LoadedModel"
        )
    return loaded
