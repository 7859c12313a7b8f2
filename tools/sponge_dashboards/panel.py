"""One panel of the dashboard and its queries, and those that most panels of servers have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sponge_dashboards.promql import of_servers, quantile

__all__ = ["Panel", "Query", "quantiles", "servers"]


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        unit: Grafana's name of the unit.
        width: of the 24 columns of a row.
        limits: smallest and largest value of the axis; None: it fits the data.
        big: a single number rather than lines.
    """

    title: str
    text: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 8
    limits: tuple[float | None, float | None] = (0, None)
    big: bool = False


def quantiles(histogram: str, *levels: float) -> tuple[Query, ...]:
    """A query for each quantile, in 0..1, of a histogram of the servers."""
    buckets = of_servers(f"{histogram}_bucket")
    return tuple(Query(quantile(level, buckets), f"p{level * 100:g}") for level in levels)


def servers(name: str, legend: str, how: str = "sum", by: str = "", more: str = "") -> Query:
    """A metric of the servers, put together by the aggregation `how`; `more` is appended to its selector."""
    labels = f" by ({by})" if by else ""
    return Query(f"{how}{labels} ({of_servers(name)}{more})", legend)
