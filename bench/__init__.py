"""Reproducible experiments. Each figure in the README and the docs comes from one script here.

Recordings of workloads are read from the folder that SPONGE_TRACES names. Without it, this package takes a folder
`traces` in the checkout or `shared/traces` beside it, if there is one.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["TRACES_VARIABLE", "traces_folder"]

TRACES_VARIABLE = "SPONGE_TRACES"
"""As `sponge_workload.files` has it. Not imported from there, because peers' servers import modules of this package in
environments without the project."""

_CHECKOUT = Path(__file__).resolve().parents[1]


def traces_folder(checkout: Path = _CHECKOUT) -> Path | None:
    """The folder of recordings in or beside a checkout; None if there is none."""
    folders = (checkout / "traces", checkout.parent / "shared" / "traces")
    return next((folder for folder in folders if folder.is_dir()), None)


if _found := traces_folder():
    os.environ.setdefault(TRACES_VARIABLE, str(_found))
