"""What is shown of fronts: the series of Envoy that the dashboard and the alerts use are Envoy's."""

from __future__ import annotations

import contextlib
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from bench.live_front import start_envoy
from certificates_kit import Authority, tls_secret

from sponge_cluster.layout import free_port
from sponge_front.files import prepare
from sponge_front.settings import EnvoySettings, TlsFiles

ROOT = Path(__file__).parents[2]
SHOWN = ("deploy/grafana/sponge.json", "deploy/prometheus/alerts.yaml")


def exposed(port: int) -> str | None:
    """What Prometheus reads of Envoy; None: it is not there yet."""
    url = f"http://127.0.0.1:{port}/stats/prometheus"
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())
    return None


@pytest.mark.slow
def test_the_series_of_envoy_that_are_shown_exist(tmp_path: Path) -> None:
    authority = Authority()
    secret = tls_secret(tmp_path / "secret", authority.issue())
    http, grpc, status = (free_port() for _ in range(3))
    tls = TlsFiles(secret.path("tls.crt"), secret.path("tls.key"))
    prepare(EnvoySettings(tmp_path, http, grpc, status, host="127.0.0.1", tls=tls))
    with (tmp_path / "log").open("wb") as log:
        envoy = start_envoy(tmp_path, log)
        try:
            until = time.monotonic() + 30
            while not (text := exposed(status)):
                assert time.monotonic() < until, (tmp_path / "log").read_text()[-500:]
                time.sleep(0.05)
            # Without a picker and without a pod.
            request = urllib.request.Request(f"https://127.0.0.1:{http}/v2/models/m/infer", data=b"{}")
            with pytest.raises(urllib.error.HTTPError, match="503"):
                urllib.request.urlopen(request, timeout=10, context=authority.client())
            used = {name for path in SHOWN for name in re.findall(r"\benvoy_\w+(?=[{ )])", (ROOT / path).read_text())}
            counted = re.compile(r"envoy_http_ext_proc_failure_mode_allowed\{.*\} 1\n")
            missing = used
            while missing or not counted.search(text):
                assert time.monotonic() < until, (missing, text)
                time.sleep(0.1)  # histograms are merged now and then
                text = exposed(status) or ""
                missing = {name for name in used if f"\n{name}{{" not in text}
        finally:
            envoy.kill()
            envoy.wait()
    assert len(used) >= 5
