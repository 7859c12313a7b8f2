"""The tables of docs/serving.md are those of the code. Run as a program, this writes them."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from sponge_cli.options import settings_options
from sponge_server.observability.metrics import Metrics
from sponge_server.settings import ServerSettings

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def settings_table() -> str:
    lines = ["| flag | default | what |", "|---|---|---|"]
    for option in settings_options(ServerSettings):
        assert isinstance(option, click.Option)
        default = option.note.partition(";")[0].removeprefix("default: ")  # type: ignore[attr-defined]
        metavar = f" {option.metavar}" if option.metavar else ""
        flag = f"`{option.opts[0]}{metavar}`".replace("|", "\\|")
        lines.append(f"| {flag} | {default} | {option.help} |")
    lines += ["", "The variable of `--drain-s` is `SPONGE_SERVE_DRAIN_S`, and so on; `--help` lists them."]
    return "\n".join(lines)


def metrics_table() -> str:
    lines = ["| name | kind | labels | what |", "|---|---|---|---|"]
    registry = Metrics().registry
    for collector in sorted(registry._collector_to_names, key=lambda c: getattr(c, "_name", "~")):
        if hasattr(collector, "_labelnames"):
            name = collector._name + ("_total" if collector._type == "counter" else "")
            labels = ", ".join(collector._labelnames)
            lines.append(f"| `{name}` | {collector._type} | {labels} | {collector._documentation} |")
    lines.append("| `process_...` | | | CPU, memory and open files of the process that answers. |")
    return "\n".join(lines)


TABLES = {"settings": settings_table, "metrics": metrics_table}


def written(page: str) -> str:
    for name, table in TABLES.items():
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)
        page, found = pattern.subn(lambda m, table=table: f"{m[1]}{table()}\n{m[2]}", page)
        assert found == 1
    return page


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_tables_of_the_code(name: str) -> None:
    assert TABLES[name]() in PAGE.read_text(), "run: python tests/cli/test_cli_docs.py"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
