"""`sponge load` as a process, against a server in the test: its figures, its timeline, its errors, its Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest
from oip_server import METADATA, OipServer, Reply

pytestmark = pytest.mark.slow

FIGURES = {
    *("sent", "in_time", "late", "shed", "expired", "cancelled", "error", "goodput_rps", "attainment"),
    *("p50_ms", "p99_ms", "sender_lag_p99_ms"),
}


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sponge_cli.main", "load", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def load(*arguments: str) -> tuple[int | None, str, str]:
    process = await start(*arguments)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_the_figures_as_json_and_the_timeline(tmp_path: Path) -> None:
    timeline = tmp_path / "timeline.jsonl"
    options = ["--model", "tiny", "--rate", "40", "--duration-s", "1", "--bandwidth", "synthetic", "--json"]
    options += ["--bandwidth-from-s", "30"]
    async with OipServer() as server:
        code, out, err = await load("--url", server.url, *options, "--timeline", str(timeline))
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures.keys() == FIGURES
    loaded = server.received[1:]  # the first asked what the model takes
    assert figures["sent"] == figures["in_time"] == len(loaded) > 20
    assert figures["attainment"] == 1.0
    rows = [json.loads(line) for line in timeline.read_text().splitlines()]
    assert sorted(row["index"] for row in rows) == list(range(figures["sent"]))
    sent = sorted(float(request.headers["x-sponge-sent-at"]) for request in loaded)
    assert sorted(row["sent_at"] for row in rows) == pytest.approx(sent, rel=0, abs=1e-6)  # the header has microseconds
    assert all(row["upload_s"] > 0 and row["payload_bytes"] > 0 for row in rows)


async def test_a_table_for_people_and_images_for_an_image_model() -> None:
    images = {**METADATA, "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}]}
    options = ["--model", "tiny", "--rate", "20", "--arrivals", "burst", "--duration-s", "0.5"]
    replies = iter([Reply()])
    async with OipServer(lambda _: next(replies, Reply(503)), images) as server:
        code, out, _ = await load("--url", server.url, *options, "--payload-bytes", "20000")
    assert code == 0
    assert {len(request.body) for request in server.received} == {20_000}
    assert out.splitlines()[0].startswith(f"tiny at {server.url}, SLO 1000 ms, no network")
    assert "attainment             0.000%" in out


async def test_ctrl_c_accounts_for_what_was_sent() -> None:
    async with OipServer() as server:
        process = await start("--url", server.url, "--model", "tiny", "--rate", "20", "--duration-s", "60", "--json")
        await server.has_received(4)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, err) == (0, b"")
    figures = json.loads(out)
    assert figures["sent"] == figures["in_time"] == len(server.received) - 1
    assert figures["goodput_rps"] > 5


async def test_errors_are_one_line_and_exit_2(tmp_path: Path) -> None:
    broken = tmp_path / "broken.csv"
    broken.write_text("bytes_per_s\nfast\n")
    async with OipServer() as server:
        cases = [
            (["--url", server.url, "--model", "other"], "has no model 'other'"),
            (["--url", server.url, "--model", "tiny", "--timeline", f"{tmp_path}/no/file"], "--timeline"),
            (["--url", server.url, "--model", "tiny", "--bandwidth", str(broken)], "broken.csv, line 2"),
            (["--url", "http://127.0.0.1:1", "--model", "tiny"], "cannot reach http://127.0.0.1:1"),
        ]
        for options, message in cases:
            code, out, err = await load(*options, "--rate", "5", "--duration-s", "1")
            assert (code, out) == (2, "")
            assert err.startswith("sponge: ")
            assert message in err
            assert len(err.splitlines()) == 1
