"""Makes the dashboard's JSON of the panels, with Grafana's own builders."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

with warnings.catch_warnings():
    # The second schema needs Grafana 12; every Grafana reads the first one.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import common as common_builders
    from grafana_foundation_sdk.builders import dashboard as builders
    from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

from sponge_dashboards.panel import Panel
from sponge_dashboards.panels import ROWS

__all__ = ["DASHBOARD", "queries", "render"]

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "sponge.json"

_HEIGHT = 8
_SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
_SERIES = "sponge_operator_slo_target_ratio"
"""One series for each service; the choices of namespace and service come from its labels."""


def queries() -> Iterator[tuple[str, str]]:
    """Title of the panel and expression of each query."""
    for panels in ROWS.values():
        for panel in panels:
            for query in panel.queries:
                yield panel.title, query.expr


def render() -> str:
    """The dashboard as JSON text."""
    board = (
        builders.Dashboard("Sponge")
        .uid("sponge")
        .description("Deadlines, cores and queues of SpongeServices.")
        .tags(["sponge", "inference"])
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh("5s")
        .time("now-15m", "now")
        .with_variable(builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_choice("namespace", "Namespace", f"label_values({_SERIES}, namespace)"))
        .with_variable(_choice("service", "Service", f'label_values({_SERIES}{{namespace=~"$namespace"}}, service)'))
    )
    number = 0
    for title, panels in ROWS.items():
        number += 1
        board.with_row(builders.Row(title).id(number))
        for panel in panels:
            number += 1
            board.with_panel(_panel(panel, number))
    return json.dumps(board.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _choice(name: str, label: str, query: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(_SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(models.VariableOption(text="All", value="$__all"))
    )


def _panel(panel: Panel, number: int) -> stat.Panel | timeseries.Panel:
    made = _number() if panel.big else _lines()
    made.id(number).title(panel.title).description(panel.text).datasource(_SOURCE).unit(panel.unit)
    made.height(_HEIGHT).span(panel.width)
    low, high = panel.limits
    if low is not None:
        made.min(low)
    if high is not None:
        made.max(high)
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + index))
        made.with_target(target.instant() if panel.big else target.range())
    return made


def _number() -> stat.Panel:
    return stat.Panel().reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))


def _lines() -> timeseries.Panel:
    legend = (
        common_builders.VizLegendOptions()
        .show_legend(True)
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
    )
    tooltip = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    return timeseries.Panel().legend(legend).tooltip(tooltip).fill_opacity(5).line_width(1)
