"""Secrets of a service: certificates that the operator accepts, how it speaks to pods, what it says of missing ones."""

from __future__ import annotations

import base64
import datetime
import ssl
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from certificates_kit import NOW, Authority, Pair
from operator_world import World
from test_operator_models import body
from test_operator_status import pod_state, snapshot, status, verdicts
from virtual_time import VirtualLoop, run_virtual

from sponge_operator.clients.kube import Kube
from sponge_operator.clients.server import ControlClient, ServerError
from sponge_operator.clients.tokens import Tokens
from sponge_operator.clients.trust import Trust
from sponge_operator.reconcile.workload import Workload
from sponge_operator.resources.manifests import build_service, control_scheme
from sponge_operator.resources.model import parse_service
from sponge_operator.resources.obstacles import Obstacle
from sponge_operator.settings import OperatorSettings

AUTHORITY = Authority()


def secret(cert: bytes, key: str = "tls.crt") -> dict[str, Any]:
    return {"data": {key: base64.b64encode(cert).decode()}}


def trusting(*certificates: bytes) -> Trust:
    trust = Trust()
    for certificate in certificates:
        trust.learn(secret(certificate))
    return trust


async def reached(trust: Trust, pair: Pair, folder: Path) -> bool:
    """Whether the operator talks to a control port with this certificate, at an address that it need not name."""
    (folder / "pair").write_bytes(pair.cert + pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "pair")

    async def state(_: web.Request) -> web.Response:
        return web.Response(text=snapshot(version=7).model_dump_json())

    app = web.Application()
    app.router.add_get("/control/v1/state", state)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    try:
        async with ControlClient() as client:
            found = await client.state(str(server.make_url("/")).rstrip("/"), "secret", tls=trust.context)
            return found.version == 7
    except ServerError as error:
        if "certificate verify failed" not in str(error):
            raise
        return False
    finally:
        await server.close()


async def test_the_certificate_in_the_secret_is_accepted_and_no_other_of_its_authority(tmp_path: Path) -> None:
    ours, other = AUTHORITY.issue("ours"), AUTHORITY.issue("ours")
    trust = trusting(ours.cert + AUTHORITY.pem)
    assert await reached(trust, ours, tmp_path)
    assert await reached(trust, Pair(ours.cert + AUTHORITY.pem, ours.key), tmp_path)
    assert not await reached(trust, other, tmp_path)
    assert not await reached(trust, Pair(other.cert + AUTHORITY.pem, other.key), tmp_path)
    assert not await reached(Trust(), ours, tmp_path)


async def test_pods_may_follow_a_change_of_the_secret_late(tmp_path: Path) -> None:
    versions = [AUTHORITY.issue(f"version {number}") for number in range(5)]
    trust = trusting(*(pair.cert for pair in versions))
    assert [await reached(trust, pair, tmp_path) for pair in versions] == [False, False, True, True, True]
    before = trust.context
    trust.learn(secret(versions[-1].cert))
    assert trust.context is before, "connections are kept while nothing changes"
    trust.learn(secret(versions[-2].cert))
    assert await reached(trust, versions[-2], tmp_path)


async def test_an_expired_certificate_is_not_accepted(tmp_path: Path) -> None:
    pair = AUTHORITY.issue(ends=NOW - datetime.timedelta(hours=1))
    assert not await reached(trusting(pair.cert), pair, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {},
        {"data": None},
        secret(b"x", key="ca.crt"),
        secret(b""),
        secret(b"\xff\xfe"),
        {"data": {"tls.crt": "no base64!"}},
        secret(b"-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n"),
    ],
)
def test_a_secret_without_a_certificate_changes_nothing(wrong: dict[str, Any] | None) -> None:
    trust = Trust()
    trust.learn(wrong)
    assert trust.context is None
    trust.learn(secret(AUTHORITY.issue().cert))
    before = trust.context
    trust.learn(wrong)
    assert trust.context is before is not None


def test_each_pod_is_spoken_to_as_it_was_started() -> None:
    """A service gets TLS while its former pods still serve."""

    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        target = world.target()
        assert target.control_url().startswith("http://")
        world.pod["metadata"].setdefault("annotations", {})["serving.sponge.dev/control-scheme"] = "https"
        assert control_scheme(world.pod) == "https"
        world.pods.update(world.pod)
        with pytest.raises(ServerError, match="certificate is unknown"):
            target.control_url()

    run_virtual(scenario)


class FakeKube:
    """Holds Secrets, and takes whatever is applied."""

    def __init__(self, **secrets: dict[str, Any]) -> None:
        self.secrets = {name.replace("_", "-"): {"data": data} for name, data in secrets.items()}
        self.applied: list[str] = []

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert namespace == "team-a"
        return self.secrets.get(name) if kind == "Secret" else None

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.applied.append(manifest["kind"])
        return {**manifest, "metadata": {**manifest["metadata"], "generation": 1, "resourceVersion": "1", "uid": "u"}}


TLS, KEYS = {"secretName": "cert"}, {"secretName": "clients"}
ISSUED = AUTHORITY.issue()
PAIR = {
    "tls.crt": base64.b64encode(ISSUED.cert).decode(),
    "tls.key": base64.b64encode(ISSUED.key).decode(),
}
MIXED = {**PAIR, "tls.key": base64.b64encode(AUTHORITY.issue().key).decode()}


@pytest.mark.parametrize(
    ("spec", "secrets", "trouble"),
    [
        ({}, {}, None),
        (
            {"tls": TLS},
            {"cert": MIXED},
            "tls.key of Secret 'cert' is not the key of tls.crt of Secret 'cert': give the pair",
        ),
        ({"tls": TLS}, {"cert": PAIR}, None),
        ({"tls": TLS}, {}, "Secret 'cert' does not exist; create it in namespace 'team-a'"),
        ({"tls": TLS}, {"cert": {"tls.crt": "eA=="}}, "Secret 'cert' has no key 'tls.key'; add it"),
        ({"apiKeys": KEYS}, {"clients": {"keys": "eA=="}}, None),
        (
            {"apiKeys": {**KEYS, "key": "k.txt"}},
            {"clients": {"keys": "eA=="}},
            "Secret 'clients' has no key 'k.txt'; add it",
        ),
        (
            {"tls": TLS, "apiKeys": KEYS},
            {"cert": PAIR},
            "Secret 'clients' does not exist; create it in namespace 'team-a'",
        ),
    ],
)
async def test_a_secret_that_pods_cannot_use_is_named(
    spec: dict[str, Any], secrets: dict[str, Any], trouble: str | None
) -> None:
    kube, tokens, trust = FakeKube(**secrets), Tokens(), Trust()
    service = parse_service(body(**spec))
    workload = Workload(cast(Kube, kube), service, OperatorSettings(), tokens, trust)
    await workload.keep(service, now=0.0)
    found = workload.secret_trouble
    assert (None if found is None else found.message) == trouble
    assert (workload.due_at() == 10.0) == (trouble is not None)
    assert kube.applied == ["Secret", "ConfigMap", "Deployment", "Service"]
    assert (trust.context is not None) == (secrets.get("cert") in (PAIR, MIXED))


def test_a_service_whose_pods_wait_for_a_secret_is_not_ready() -> None:
    missing = Obstacle("SecretMissing", "Secret 'cert' does not exist")
    assert verdicts(status(pod_state(), secret_trouble=missing))["Ready"] == ("True", "PodsReady")
    waiting = status(pod_state(), secret_trouble=missing, spec={"replicas": {"min": 2, "max": 2}})
    assert verdicts(waiting)["Ready"] == ("False", "SecretMissing")
    assert verdicts(status(pod_state(), pod_state("2", reachable=False), spec={"replicas": {"min": 2, "max": 2}}))[
        "Ready"
    ] == ("False", "NoState")


def test_meshes_and_gateways_are_told_what_is_spoken() -> None:
    def protocols(**spec: Any) -> list[str | None]:
        return [port.get("appProtocol") for port in build_service(parse_service(body(**spec)))["spec"]["ports"]]

    assert protocols() == [None, "kubernetes.io/h2c", None]
    assert protocols(tls=TLS) == ["https"] * 3
