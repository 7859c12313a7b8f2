"""The live page and the report in a real browser: charts are drawn, change with each document, and can be chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Browser
from demo_story import START, fixed_run, sponge_run, story

from sponge_demo.backend import DemoError
from sponge_demo.document import Progress, Story, build_document
from sponge_demo.page import LivePage
from sponge_demo.report import write_report

pytestmark = pytest.mark.slow

DRAWN = "Number(document.body.dataset.drawn || 0)"
POINTS = "document.querySelectorAll('#attained .scatterlayer path.js-line').length"
LAST_X = "document.getElementById('cores').data.at(-1).x.at(-1)"
CHARTS = ("rate", "cores", "attained", "uplink", "slack", "queue", "batch")


def running(until_s: float) -> dict[str, object]:
    told = story(ended=False)
    told.runs = [sponge_run(until_s)]
    return build_document(told, Progress("running", f"Sponge: {until_s:g} s", until_s / 20, "soon"), START + until_s)


def done(told: Story) -> dict[str, object]:
    return build_document(told, Progress("done", "Done", 1.0), START + 100)


async def test_the_page_draws_every_chart_and_follows(tmp_path: Path) -> None:
    with LivePage(0) as page:
        page.publish(running(5.0))
        async with Browser() as browser:
            await browser.open(page.url)
            await browser.until(f"{DRAWN} >= 1")
            for chart in CHARTS:
                assert await browser.value(f"document.querySelectorAll('#{chart} .main-svg').length") >= 1, chart
                assert await browser.value(f"document.querySelector('#{chart} .gtitle').textContent.length") > 5
            assert await browser.value(LAST_X) == 5.0
            page.publish(running(12.0))
            assert await browser.until(f"{LAST_X} === 12")
            assert await browser.value("document.getElementById('phase').textContent") == "Sponge: 12 s"
            assert (await browser.screenshot()).startswith(b"\x89PNG")

            report = tmp_path / "report.html"
            told = story(fixed_run(500, 18))
            told.report = str(report)
            write_report(done(told), report)
            page.publish(done(told), report)
            await browser.until("document.body.dataset.state === 'done'")
            assert await browser.value("document.querySelectorAll('#table tr').length") == 2
            link = await browser.value("document.querySelector('#links a').href")
            assert link == f"{page.url}/report"
            await browser.open(link)
            await browser.until(f"{DRAWN} >= 1 && !document.getElementById('reproduce').hidden")


async def test_the_report_opens_from_a_file_and_shows_the_run_that_is_chosen(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    write_report(done(story(fixed_run(500, 18))), report)
    async with Browser() as browser:
        await browser.open(report.as_uri())
        await browser.until(f"{DRAWN} === 1")
        assert await browser.value("document.getElementById('cores').data.at(-1).name") == "Sponge"
        await browser.value("document.querySelectorAll('#runs button')[1].click()")
        await browser.until(f"{DRAWN} === 2")
        assert await browser.value("document.getElementById('cores').data.at(-1).name") == "fixed 0.5"
        assert "sponge demo </script>" in await browser.value("document.getElementById('details').textContent")


def test_a_port_that_is_taken_is_said() -> None:
    with LivePage(0) as page:
        port = int(page.url.rsplit(":", 1)[1])
        with pytest.raises(DemoError, match=rf"--port {port}: .*give a free one, or 0"):
            LivePage(port)
