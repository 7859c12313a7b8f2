"""One container of a pod, whatever of it the pod leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from sponge_operator.resources.containers import (
    container_limit,
    container_spec,
    container_status,
    container_variable,
)

SIDECAR = {"name": "sidecar", "env": [{"name": "A", "value": "2"}], "resources": {"limits": {"cpu": "2"}}}
SERVER = {"name": "server", "env": [{"name": "A", "value": "1"}], "resources": {"limits": {"cpu": "1"}}}
STATUS = {"name": "server", "resources": {"limits": {"cpu": "500m"}}}
POD = {"spec": {"containers": [SIDECAR, SERVER]}, "status": {"containerStatuses": [STATUS]}}


def test_the_container_of_the_name_counts() -> None:
    assert container_spec(POD, "server") == SERVER
    assert container_status(POD, "server") == STATUS
    assert container_variable(POD, "server", "A") == {"name": "A", "value": "1"}
    assert [container_limit(of, "cpu") for of in (SERVER, STATUS)] == ["1", "500m"]


@pytest.mark.parametrize("server", [None, {"name": "server"}, {"name": "server", "resources": None, "env": None}])
@pytest.mark.parametrize("status", [None, {}, {"containerStatuses": None}, {"containerStatuses": [{"name": "other"}]}])
def test_what_is_not_there_is_none(server: dict[str, Any] | None, status: dict[str, Any] | None) -> None:
    pod = {"spec": {"containers": [SIDECAR, *([] if server is None else [server])]}, "status": status}
    assert container_spec(pod, "server") == server
    assert container_status(pod, "server") is None
    assert container_variable(pod, "server", "A") is None
    assert container_limit(container_spec(pod, "server"), "cpu") is None
