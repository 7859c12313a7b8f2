"""The cache folder of this user. Everything in it can be made again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_root", "models_folder"]


def cache_root() -> Path:
    """Sponge's folder in the user's cache ($XDG_CACHE_HOME, else ~/.cache); it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sponge"


def models_folder() -> Path:
    """The folder of models that this machine has built; it may not exist yet."""
    return cache_root() / "models"
