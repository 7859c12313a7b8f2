"""Every generated page of the reference, by its path in the site."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sponge_docs.cli import cli_page
from sponge_docs.conditions import conditions_page
from sponge_docs.crd import crd_page
from sponge_docs.metrics import metrics_page
from sponge_docs.settings import settings_page

__all__ = ["PAGES"]

PAGES: Mapping[str, Callable[[], str]] = {
    "reference/spongeservice.md": crd_page,
    "reference/settings.md": settings_page,
    "reference/metrics.md": metrics_page,
    "reference/conditions.md": conditions_page,
    "reference/cli.md": cli_page,
}
