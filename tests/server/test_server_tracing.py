"""Traces of a real server, decoded by a real OTLP receiver."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from server_process import ServerProcess

pytestmark = pytest.mark.torch

MODEL = ("--model", "m=python://commanded_model:factory", "--max-batch", "2", "--slo-ms", "20000", "--cores", "1")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Receiver:
    """An OTLP receiver over HTTP; `spans` are (service, span)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    service = {a.key: a.value.string_value for a in group.resource.attributes}["service.name"]
                    receiver.spans += [(service, span) for scope in group.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_every_request_is_a_span_in_its_clients_trace_linked_to_its_batch(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    server = ServerProcess(tmp_path, *MODEL, "--tracing")
    with ThreadPoolExecutor(2) as pool:
        blocker = pool.submit(server.command, 300)
        traced = pool.submit(server.command, 30, traceparent=f"00-{TRACE}-{PARENT}-01", x_sponge_slo_ms="15000")
        assert (blocker.result().status, traced.result().status) == (200, 200)
    assert server.command(0, x_sponge_slo_ms="0.01").status in (503, 504)
    assert server.stop() == 0
    assert {service for service, _ in receiver.spans} == {"sponge-server"}
    spans = [span for _, span in receiver.spans]
    batches = {span.span_id: span for span in spans if span.name == "batch"}
    (mine,) = [span for span in spans if span.trace_id.hex() == TRACE]
    told = attributes(mine)
    assert (mine.name, mine.parent_span_id.hex()) == ("infer m", PARENT)
    assert (told["sponge.model"], told["sponge.outcome"], told["sponge.slo_class"]) == ("m", "in_time", "default")
    assert told["sponge.slo_ms"] == 15000
    assert 0 < told["sponge.remaining_slo_ms"] <= 15000
    assert told["sponge.infer_ms"] >= 30
    assert told["sponge.batch.threads"] == 1
    (link,) = mine.links
    batch = batches[link.span_id]
    assert attributes(batch)["sponge.batch.size"] == told["sponge.batch.size"]
    assert batch.end_time_unix_nano - batch.start_time_unix_nano >= 30e6
    assert mine.end_time_unix_nano - mine.start_time_unix_nano >= 30e6
    (refused,) = [span for span in spans if attributes(span).get("sponge.outcome") in ("shed", "expired")]
    assert (refused.status.code, len(refused.links)) == (2, 0)


def test_without_tracing_nothing_of_it_is_imported() -> None:
    code = (
        "import sys, sponge_server.app, sponge_cli.serve;"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_missing_extra_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.exporter'] = None; sys.argv = ['sponge', 'serve', '--tracing',"
        "'--model', 'm=digits://']; from sponge_cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60, capture_output=True, text=True)
    assert (done.returncode, "pip install 'sponge-serving[tracing]'" in done.stderr) == (2, True), done.stderr
