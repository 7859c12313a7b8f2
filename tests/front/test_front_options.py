"""Options of `sponge front` that do not fit each other are refused with the one that is missing."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from sponge_cli.front import command

POD = "--pod 127.0.0.1,8080,8081,9090"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("run", "give either --service, to follow its pods, or --pod"),
        (f"run --service s {POD}", "give either --service, to follow its pods, or --pod"),
        (f"run {POD} --wake", "--wake needs --service"),
        ("run --service s --picker-cert-file c", "TLS needs both --picker-cert-file and --picker-key-file"),
        ("run --service s --picker-key-file k", "TLS needs both --picker-cert-file and --picker-key-file"),
        ("run --service s --picker-cert-file c --picker-key-file k", "--picker-cert-file needs --picker-address"),
        ("run --service s --pods-ca-file a", "--pods-ca-file needs --pods-cert-file"),
        ("envoy-config --pods-ca-file a", "--pods-ca-file needs --pods-cert-file"),
        ("envoy-config --tls-cert-file c", "TLS needs both --tls-cert-file and --tls-key-file"),
        ("envoy-config --tls-client-ca-file a", "TLS needs both --tls-cert-file and --tls-key-file"),
        ("envoy-config --http-port 9092", "must differ"),
        ("envoy-config --host localhost", "--host localhost is no IP address"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(options: str, why: str) -> None:
    done = CliRunner().invoke(command, options.split())
    assert (done.exit_code, why in done.output) == (2, True), done.output
