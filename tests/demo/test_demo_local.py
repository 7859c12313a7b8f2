"""`sponge demo --backend local`, whole: a real server and load, the page in a real browser, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from browser import Browser

pytestmark = pytest.mark.torch

RUN_S = 12
LAST_X = "document.getElementById('cores').data.at(-1).x.at(-1)"


class Demo:
    """A running demo: its process, and what it has said on stderr."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""

    async def says(self, pattern: str) -> re.Match[str]:
        """Waits until stderr holds the pattern."""
        assert self.process.stderr is not None
        async with asyncio.timeout(120):
            while not (found := re.search(pattern, self.said)):
                line = await self.process.stderr.readline()
                assert line, f"the demo has ended: {self.said}"
                self.said += line.decode()
        return found

    async def ended(self) -> tuple[int | None, str]:
        """Exit code and stdout."""
        out, err = await asyncio.wait_for(self.process.communicate(), 180)
        self.said += err.decode()
        return self.process.returncode, out.decode()


@pytest.fixture(autouse=True)
def _ctrl_c_is_not_ignored() -> None:
    """A shell ignores it for what it starts in the background, and the demo would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.asynccontextmanager
async def demo(out: Path, *options: str) -> AsyncIterator[Demo]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sponge_cli.main", "demo", "--backend", "local", "--port", "0", "--out", str(out)),
        *("--duration-s", str(RUN_S), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Demo(process)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def servers(out: Path) -> list[psutil.Process]:
    """Processes of this demo's server."""
    token_file = str(out / "control-token")
    return [process for process in psutil.process_iter(["cmdline"]) if token_file in (process.info["cmdline"] or [])]


def cgroups(pid: int) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/sponge-demo-{pid}"))


async def test_a_whole_demo(tmp_path: Path) -> None:
    async with demo(tmp_path, "--statics", "500m") as play, Browser() as browser:
        url = (await play.says(r"Watch it at (http://127\.0\.0\.1:\d+)"))[1]
        await browser.open(url)
        first = await browser.until(LAST_X, 120)
        await browser.until(f"{LAST_X} > {first}")
        assert await browser.value("document.querySelectorAll('.chart .main-svg').length") >= 6
        code, out = await play.ended()
    assert code == 0, play.said
    lines = out.splitlines()
    assert lines[1].startswith("Sponge ")
    assert lines[2].startswith("fixed 0.5 ")
    results = json.loads((tmp_path / "results.json").read_text())
    sponge, fixed = (run["figures"] for run in results["runs"])
    # The very same schedule for both. How well they do is for the benchmarks: here other tests run beside it.
    assert sponge["sent"] == fixed["sent"] > 30
    assert fixed["mean_cores"] == 0.5
    assert fixed["resizes"] == sponge["restarts"] == 0
    assert sponge["resizes"] > 0
    assert sponge["mean_cores"] < 1.5
    for name in ("report.html", "sponge.svg", "sponge.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert not servers(tmp_path)
    assert not cgroups(play.process.pid)
    assert not (tmp_path / "control-token").exists()


@pytest.mark.parametrize("moment", ["Starting the server", r"requests in 12 s"])
async def test_ctrl_c_cleans_up(tmp_path: Path, moment: str) -> None:
    async with demo(tmp_path) as play:
        await play.says(moment)
        play.process.send_signal(signal.SIGINT)
        code, out = await play.ended()
    assert (code, out) == (130, "")
    assert play.said.splitlines()[-1] == "sponge: interrupted"
    assert "Traceback" not in play.said
    assert not servers(tmp_path)
    assert not cgroups(play.process.pid)


async def test_ctrl_c_keeps_the_runs_that_have_ended(tmp_path: Path) -> None:
    async with demo(tmp_path, "--statics", "500m") as play:
        await play.says(r"fixed 0\.5: \d+ requests")
        play.process.send_signal(signal.SIGINT)
        code, out = await play.ended()
    assert code == 130
    assert out.splitlines()[1].startswith("Sponge ")
    assert "fixed" not in out
    assert [run["name"] for run in json.loads((tmp_path / "results.json").read_text())["runs"]] == ["Sponge"]
    assert not servers(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--statics", "many"], "--statics many: give auto, none or sizes"),
        (["--statics", "0"], "--statics 0: give auto, none or sizes"),
        (["--out", "/proc/demo"], "--out /proc/demo: .*give a folder"),
    ],
)
async def test_bad_options_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    async with demo(tmp_path, *options) as play:
        code, _ = await play.ended()
    assert code == 2
    assert re.match(f"sponge: {message}", play.said)
    assert len(play.said.splitlines()) == 1
