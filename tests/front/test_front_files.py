"""The configuration of the proxy, and the files it watches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench.live_front import envoy_program

from sponge_core.errors import SpongeError
from sponge_front.envoy_config import bootstrap, endpoints_file
from sponge_front.files import prepare, write_endpoints
from sponge_front.pods import Pod
from sponge_front.settings import EnvoySettings

PODS = [Pod("a", "10.0.0.1", 8080, 8081, 9090), Pod("b", "fd00::1", 18080, 18081, 9090)]


def addresses(directory: Path, protocol: str) -> list[tuple[str, int]]:
    document = json.loads((directory / f"{protocol}-endpoints.json").read_text())
    (assignment,) = document["resources"]
    assert assignment["cluster_name"] == f"pods-{protocol}"
    found = [each["endpoint"]["address"]["socket_address"] for each in assignment["endpoints"][0]["lb_endpoints"]]
    return [(each["address"], each["port_value"]) for each in found]


def test_the_proxy_learns_both_ports_of_each_pod(tmp_path: Path) -> None:
    write_endpoints(tmp_path, PODS)
    assert addresses(tmp_path, "http") == [("10.0.0.1", 8080), ("fd00::1", 18080)]
    assert addresses(tmp_path, "grpc") == [("10.0.0.1", 8081), ("fd00::1", 18081)]


def test_addresses_of_an_earlier_picker_stay(tmp_path: Path) -> None:
    prepare(EnvoySettings(tmp_path))
    assert addresses(tmp_path, "http") == []
    write_endpoints(tmp_path, PODS)
    prepare(EnvoySettings(tmp_path))
    assert len(addresses(tmp_path, "http")) == 2
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("host", ["::", "127.0.0.1"])
def test_envoy_accepts_the_configuration(tmp_path: Path, host: str) -> None:
    path = prepare(EnvoySettings(tmp_path, host=host, pick_timeout_s=0.0125))
    found = subprocess.run([envoy_program(), "--mode", "validate", "-c", str(path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpongeError, match="choose another --directory"):
        prepare(EnvoySettings(tmp_path / "file" / "below"))


def test_a_picker_that_fails_stops_no_request(tmp_path: Path) -> None:
    listeners = bootstrap(EnvoySettings(tmp_path, pick_timeout_s=0.025))["static_resources"]["listeners"]
    for listener in listeners[:2]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        picking = manager["http_filters"][0]["typed_config"]
        assert picking["failure_mode_allow"]
        assert picking["message_timeout"] == "0.025s"
    assert endpoints_file(tmp_path, "http").parent == tmp_path


@pytest.mark.slow
def test_the_command_prints_or_writes_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sponge_cli.main", "front"]
    printed = subprocess.run([*command, "envoy-config", "--directory", str(tmp_path)], capture_output=True, text=True)
    assert "static_resources" in json.loads(printed.stdout)
    written = subprocess.run(
        [*command, "envoy-config", "--directory", str(tmp_path), "--write"], capture_output=True, text=True
    )
    assert json.loads(Path(written.stdout.strip()).read_text()) == json.loads(printed.stdout)
    for options in ([], ["--service", "s", "--pod", "h,1,2,3"]):
        both = subprocess.run([*command, "run", *options], capture_output=True, text=True)
        assert (both.returncode, "give either --service" in both.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["run", "--pod", "h"], 2, "write ADDRESS,HTTP_PORT"),
        (["run", "--pod", "localhost,1,2,3"], 2, "is no IP address"),
        (["run", "--pod", "::1,1,2,3", "--status-port", "70000"], 2, "0<=x<=65535"),
        (["run", "--pod", "::1,1,2,3", "--drain-s", "nan"], 2, "--drain-s"),
        (["run", "--pod", "::1,1,2,3", "--picker-address", "nonsense"], 2, "cannot listen on nonsense"),
        (["run", "--pod", "::1,1,2,3", "--directory", "/dev/null/x"], 2, "choose another --directory"),
        (["envoy-config", "--http-port", "0"], 2, "1<=x<=65535"),
        (["envoy-config", "--http-port", "8081"], 2, "must differ"),
        (["envoy-config", "--host", "localhost"], 2, "is no IP address"),
        (["envoy-config", "--pick-timeout-ms", "inf"], 2, "--pick-timeout-ms"),
    ],
)
@pytest.mark.slow
def test_bad_options_are_refused_with_the_fix(tmp_path: Path, options: list[str], code: int, said: str) -> None:
    command = [sys.executable, "-m", "sponge_cli.main", "front", options[0], "--directory", str(tmp_path), *options[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
