"""A service with TLS and API keys in the real cluster: it waits for its Secrets, is sized, and follows changes."""

from __future__ import annotations

import base64
import ssl

import pytest
from certificates_kit import Authority, Pair
from operator_kit import Kubectl, Service, eventually, identity, millicores, quota_file

from sponge_client.client import SpongeClient
from sponge_client.errors import ServerError

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.usefixtures("operator_running")]

AUTHORITY = Authority()
PHONE, NEXT = "c8f1b6e2a94d4f0e9b7a", "7d1e0c5b3a2f4e6d8c9b"


def put(kubectl: Kubectl, namespace: str, name: str, **data: bytes) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {key.replace("_", "."): base64.b64encode(value).decode() for key, value in data.items()},
    }
    kubectl("apply", "-f", "-", document=document)


def put_pair(kubectl: Kubectl, namespace: str, pair: Pair) -> None:
    put(kubectl, namespace, "cert", tls_crt=pair.cert, tls_key=pair.key)


def presented(address: str, port: int) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((address, port)))


async def test_a_service_with_tls_and_keys(kubectl: Kubectl, namespace: str) -> None:
    first, second = AUTHORITY.issue("first"), AUTHORITY.issue("second")
    service = Service(kubectl, namespace, "digits")
    service.apply(
        model={"name": "digits", "source": "digits://"},
        slo={"latency": "300ms"},
        cpu={"min": "250m", "max": "1", "step": "250m"},
        tls={"secretName": "cert"},
        apiKeys={"secretName": "clients"},
    )
    eventually(lambda: service.is_("Ready", "False", "SecretMissing"), 20, "the condition names the missing Secret")
    put_pair(kubectl, namespace, first)
    put(kubectl, namespace, "clients", keys=f"phone: {PHONE}\n".encode())
    service.wait_ready(300)  # the kubelet tries a missing Secret again after up to two minutes
    pod = service.pod()
    address, quota, before = pod["status"]["podIP"], quota_file(pod), identity(pod)
    assert {presented(address, port) for port in (8080, 8081, 9090)} == {first.der}
    eventually(lambda: millicores(quota) == 250, 30, "the operator reaches the control port and shrinks the pod")

    # Rotation: the pods follow, the operator goes on, and no container restarts.
    put_pair(kubectl, namespace, second)
    put(kubectl, namespace, "clients", keys=f"phone: {NEXT}\n".encode())
    eventually(lambda: presented(address, 8080) == second.der, 150, "the kubelet hands the certificate over")
    eventually(lambda: service.is_("Planning", "True", "Auto"), 30, "the operator accepts the new certificate")
    trust = AUTHORITY.client()
    trust.check_hostname = False  # by address
    async with SpongeClient(f"https://{address}:8080", trust, NEXT) as client:
        assert await client.ready("digits")
        await client.metadata("digits")
    async with SpongeClient(f"https://{address}:8080", trust, PHONE) as client:
        assert await client.ready("digits")
        with pytest.raises(ServerError, match="not in force"):
            await client.metadata("digits")
    assert identity(service.pod()) == before
