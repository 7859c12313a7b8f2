"""A front that speaks TLS to its clients and to the pods: the real Envoy, picker and servers, and certificates that are
renewed while requests come."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates_kit import Authority, Pair, Secret, tls_secret
from front_kit import FrontProcess, servers
from server_process import ServerProcess, eventually

from sponge_server.protos import inference_pb2 as pb

pytestmark = [pytest.mark.torch, pytest.mark.slow]

OURS, POD_AUTHORITY, CLIENT_AUTHORITY = Authority("fronts"), Authority("pods"), Authority("clients")
PICK_TIMEOUT_MS = 400


@dataclass(slots=True)
class Site:
    """Two servers with TLS. `secret`: their certificate as they read it; `mounted`: the same in the front's pod."""

    pods: list[ServerProcess]
    secret: Secret
    mounted: Secret

    def options(self) -> list[str]:
        cert, authority = self.mounted.path("tls.crt"), self.mounted.path("ca.crt")
        return ["--pods-cert-file", str(cert), "--pods-ca-file", str(authority)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("pods")
    pair = POD_AUTHORITY.issue()
    secret = tls_secret(folder / "secret", pair)
    mounted = Secret(folder / "mounted", tls_crt=pair.cert, ca_crt=POD_AUTHORITY.pem)
    files = ["--tls-cert-file", str(secret.path("tls.crt")), "--tls-key-file", str(secret.path("tls.key"))]
    with servers(folder, 2, *files, trust=POD_AUTHORITY.client()) as pods:
        yield Site(pods, secret, mounted)


class Distrusting(FrontProcess):
    """One that comes to know no pod."""

    def is_ready(self) -> bool:
        """Its own parts are there."""
        with contextlib.suppress(OSError, KeyError):
            return self.healthy("picker") == 1 and self.metric("sponge_front_pods") == len(self.pods)
        return False


@contextlib.contextmanager
def front(
    site: Site,
    secret: Secret,
    *options: str,
    trust: ssl.SSLContext | None = None,
    kind: type[FrontProcess] = FrontProcess,
) -> Iterator[FrontProcess]:
    """Context of a front that shows the certificate in `secret`, and whose clients trust its authority."""
    files = ["--tls-cert-file", str(secret.path("tls.crt")), "--tls-key-file", str(secret.path("tls.key"))]
    with kind(
        site.pods,
        *site.options(),
        pick_timeout_ms=PICK_TIMEOUT_MS,
        proxy_options=[*files, *options, *site.options()],
        trust=trust or OURS.client(),
    ) as running:
        yield running


@contextlib.contextmanager
def asked_all_the_time(running: FrontProcess) -> Iterator[list[int]]:
    """Context in which requests are sent one after the other, each on a connection of its own."""
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            statuses.append(running.command(0).status)

    sender = threading.Thread(target=ask)
    sender.start()
    try:
        yield statuses
    finally:
        over.set()
        sender.join()


def shown(port: int, protocols: list[str]) -> tuple[bytes | None, str | None]:
    """The certificate that a port shows, and the protocol that it chooses."""
    context = OURS.client()
    context.set_alpn_protocols(protocols)
    plain = socket.create_connection(("127.0.0.1", port), 10)
    with context.wrap_socket(plain, server_hostname="localhost") as secured:
        return secured.getpeercert(True), secured.selected_alpn_protocol()


def test_requests_pass_by_both_protocols_and_reach_the_pods_by_tls(site: Site, tmp_path: Path) -> None:
    pair = OURS.issue()
    with front(site, tls_secret(tmp_path / "secret", pair)) as running:
        assert [running.command(0).status for _ in range(4)] == [200] * 4
        eventually(lambda: running.endings().get("answered", 0) >= 1)
        for port in (running.http, running.grpc):
            assert shown(port, ["h2", "http/1.1"]) == (pair.der, "h2")
            assert shown(port, ["http/1.1"]) == (pair.der, "http/1.1")
        request = pb.ModelInferRequest(
            model_name="m",
            inputs=[pb.ModelInferRequest.InferInputTensor(name="command", datatype="INT64", shape=[1, 1])],
        )
        request.inputs[0].contents.int64_contents.append(0)
        with grpc.secure_channel(f"localhost:{running.grpc}", grpc.ssl_channel_credentials(OURS.pem)) as channel:
            infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            answer = pb.ModelInferResponse.FromString(infer(request.SerializeToString(), timeout=30))
        assert answer.model_name == "m"
        with pytest.raises((http.client.HTTPException, OSError)):
            urllib.request.urlopen(f"http://127.0.0.1:{running.http}/v2/health/live", timeout=10)


def test_a_renewed_certificate_is_shown_without_a_lost_request_and_a_broken_one_is_not(
    site: Site, tmp_path: Path
) -> None:
    first, second = OURS.issue(), OURS.issue()
    secret = tls_secret(tmp_path / "secret", first)
    with front(site, secret) as running, asked_all_the_time(running) as statuses:
        eventually(lambda: len(statuses) >= 5)
        secret.put(tls_crt=second.cert, tls_key=second.key)
        eventually(lambda: shown(running.http, ["h2"])[0] == second.der)
        secret.put(tls_crt=first.cert, tls_key=second.key)
        seen = len(statuses)
        eventually(lambda: len(statuses) >= seen + 20)
        assert shown(running.http, ["h2"])[0] == second.der
    assert set(statuses) == {200}


@pytest.mark.parametrize("first", ["pods", "front"])
def test_a_certificate_of_the_pods_that_is_renewed_loses_no_request(site: Site, tmp_path: Path, first: str) -> None:
    """Whoever has it first: the kubelets hand it over at different times."""
    pair = POD_AUTHORITY.issue()

    def renew_pods() -> None:
        site.secret.put(tls_crt=pair.cert, tls_key=pair.key)
        eventually(lambda: all(_shows(pod, pair) for pod in site.pods))

    def renew_front() -> None:
        site.mounted.put(tls_crt=pair.cert, ca_crt=POD_AUTHORITY.pem)

    with front(site, tls_secret(tmp_path / "secret", OURS.issue())) as running, asked_all_the_time(running) as statuses:
        for renew in (renew_pods, renew_front) if first == "pods" else (renew_front, renew_pods):
            renew()
            seen = len(statuses)
            eventually(lambda seen=seen: len(statuses) >= seen + 20)  # type: ignore[misc]
        # A picker that starts anew knows the present certificate alone.
        running.picker.kill()
        running.picker.wait()
        running.start_picker()
        eventually(running.is_ready)
    assert set(statuses) == {200}


def test_a_pod_with_another_certificate_gets_neither_requests_nor_the_token(site: Site, tmp_path: Path) -> None:
    others = Authority("others")
    strange = Secret(tmp_path / "strange", tls_crt=others.issue().cert, ca_crt=others.pem)
    wrong = Site(site.pods, site.secret, strange)
    with front(wrong, tls_secret(tmp_path / "secret", OURS.issue()), kind=Distrusting) as running:
        eventually(lambda: running.healthy("pods-http") == running.healthy("pods-grpc") == 0)
        assert running.command(0).status == 503
        assert running.metric("sponge_front_pods_reporting") == 0


def test_clients_need_a_certificate_where_their_authority_is_given(site: Site, tmp_path: Path) -> None:
    secret = tls_secret(tmp_path / "secret", OURS.issue())
    clients = Secret(tmp_path / "clients", ca_crt=CLIENT_AUTHORITY.pem)
    known = OURS.client(CLIENT_AUTHORITY.issue("client"), tmp_path)
    with front(site, secret, "--tls-client-ca-file", str(clients.path("ca.crt")), trust=known) as running:
        assert running.command(0).status == 200
        running.trust = OURS.client()
        with pytest.raises(OSError):
            running.command(0)


def _shows(pod: ServerProcess, pair: Pair) -> bool:
    host, _, port = pod.data.rpartition("/")[2].partition(":")
    context = POD_AUTHORITY.client()
    plain = socket.create_connection((host, int(port)), 10)
    with context.wrap_socket(plain, server_hostname="localhost") as secured:
        return secured.getpeercert(True) == pair.der
