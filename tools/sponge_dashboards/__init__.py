"""The Grafana dashboard as code: `make dashboards` writes deploy/grafana/sponge.json from it."""

from sponge_dashboards.document import DASHBOARD, queries, render

__all__ = ["DASHBOARD", "queries", "render"]
