"""The control token is lost, rotated, and rotated while no operator remembers the one before, in the real cluster."""

from __future__ import annotations

import base64
import json
import re
import secrets
import urllib.error

import pytest
from operator_kit import (
    Kubectl,
    Service,
    eventually,
    identity,
    millicores,
    operator_pods,
    quota_file,
    scraped,
    server_state,
)

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.long]

HANDED_OVER_S = 120
"""The kubelet looks after the Secrets of a pod about once a minute."""


def token(service: Service) -> str:
    name = f"{service.name}-sponge-control"
    secret = json.loads(service.kubectl("get", "secret", name, "-n", service.namespace, "-o", "json"))
    return base64.b64decode(secret["data"]["token"]).decode()


def rotate(service: Service) -> None:
    data = {"data": {"token": base64.b64encode(secrets.token_urlsafe(32).encode()).decode()}}
    name = f"{service.name}-sponge-control"
    service.kubectl("patch", "secret", name, "-n", service.namespace, "--type=merge", "-p", json.dumps(data))


def there(service: Service) -> bool:
    name = f"{service.name}-sponge-control"
    return bool(service.kubectl("get", "secret", name, "-n", service.namespace, "--ignore-not-found"))


def takes_the_new_token(service: Service) -> bool:
    try:
        return bool(server_state(service, service.pod()))
    except urllib.error.HTTPError as error:
        if error.code == 401:
            return False
        raise


def reached(kubectl: Kubectl, service: Service) -> bool:
    pod = service.pod()["metadata"]["name"]
    labels = f'namespace="{service.namespace}",pod="{pod}",service="{service.name}"'
    return bool(re.search(rf"^sponge_operator_server_reachable{{{labels}}} 1.0$", scraped(kubectl), re.MULTILINE))


def test_servers_are_driven_through_a_change_of_their_token(kubectl: Kubectl, digits: Service) -> None:
    quota, before, first = quota_file(digits.pod()), identity(digits.pod()), token(digits)
    eventually(lambda: millicores(quota) == 250, 40, "an idle pod has its smallest size")

    def resize(milli: int) -> None:
        digits.patch(cpu={"min": f"{milli}m"})
        eventually(lambda: millicores(quota) == milli, 5, f"{milli}m are in force")

    # No watch reports a lost Secret, so it comes back with the next edit, or when a pod waits for it.
    kubectl("delete", "secret", f"{digits.name}-sponge-control", "-n", digits.namespace)
    resize(500)
    eventually(lambda: there(digits), 5, "the Secret is back")
    assert token(digits) == first, "with the token that the servers know"

    rotate(digits)
    resize(375)
    resize(250)
    eventually(lambda: takes_the_new_token(digits), HANDED_OVER_S, "the server has the new token")
    resize(500)
    resize(250)
    assert reached(kubectl, digits)

    # An operator that starts meanwhile knows only the new token, and waits until the kubelet has handed it over.
    rotate(digits)
    old = operator_pods(kubectl)[0]["metadata"]
    kubectl("delete", "pod", old["name"], "-n", old["namespace"], "--timeout=60s")
    eventually(lambda: takes_the_new_token(digits), HANDED_OVER_S, "the server has the new token")
    digits.patch(cpu={"min": "500m"})
    eventually(lambda: millicores(quota) == 500, 60, "it is driven again")
    eventually(lambda: digits.is_("Planning", "True", "Auto"), 5, "and the condition says so")
    resize(250)
    assert reached(kubectl, digits)
    assert identity(digits.pod()) == before
