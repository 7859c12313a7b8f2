"""The checks of rights and API at the operator's start."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest
import yaml
from virtual_time import VirtualLoop, run_virtual

from sponge_cluster.chart import CHART
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.reconcile.preflight import RECHECK_S, RIGHTS, Preflight, Right


class Api:
    """An API server that serves `resources` and denies `denied`, pairs of namespace and right."""

    def __init__(self) -> None:
        self.resources = {"pods", "pods/resize", "pods/status"}
        self.denied: set[tuple[str, str]] = set()
        self.asked: list[tuple[str, str]] = []
        self.silent = False

    async def core_resources(self) -> set[str]:
        if self.silent:
            raise ApiError(0, {"message": "the API server does not answer"})
        return self.resources

    async def may(self, verb: str, resource: str, group: str, namespace: str) -> bool:
        self.asked.append((namespace, str(Right(verb, resource, group))))
        return self.asked[-1] not in self.denied


def preflight(api: Api, *namespaces: str) -> tuple[Preflight, list[tuple[str, str] | None]]:
    changes: list[tuple[str, str] | None] = []
    checks = Preflight(cast(Kube, api), namespaces, lambda: changes.append(checks.problem))
    return checks, changes


async def test_everything_is_there() -> None:
    api = Api()
    checks, changes = preflight(api)
    await checks.check()
    assert (checks.problem, changes) == (None, [])
    assert api.asked == [("", str(right)) for right in RIGHTS]


async def test_an_api_server_without_the_subresource_is_told_once_with_the_fix(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = Api()
    api.resources.remove("pods/resize")
    checks, changes = preflight(api)
    with caplog.at_level(logging.INFO, "sponge.operator"):
        await checks.check()
        await checks.check()
    assert checks.problem is not None
    assert checks.problem[0] == "NoResizeApi"
    assert "upgrade the cluster to Kubernetes 1.33 or later" in checks.problem[1]
    assert [record.getMessage() for record in caplog.records] == ["preflight.failed"]
    api.resources.add("pods/resize")
    await checks.check()
    assert changes[-1] is None
    assert len(changes) == 2


async def test_a_missing_right_to_resize_is_a_problem_of_the_services_and_others_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = Api()
    api.denied = {("team-a", "create events"), ("team-b", "patch pods/resize")}
    checks, _ = preflight(api, "team-a", "team-b")
    await checks.check()
    assert checks.problem is not None
    reason, message = checks.problem
    assert reason == "MissingRights"
    assert message.startswith(
        "the operator may not patch pods/resize in namespace team-b; install the Helm chart again"
    )
    said = str(vars(caplog.records[0]))
    assert "create events in namespace team-a; nor patch pods/resize in namespace team-b" in said


def test_it_is_checked_again_until_all_is_well() -> None:
    async def scenario(_: VirtualLoop) -> None:
        api = Api()
        api.silent = True
        checks, changes = preflight(api)
        task = asyncio.create_task(checks.run())
        await asyncio.sleep(RECHECK_S / 2)
        assert (api.asked, changes) == ([], [])
        api.silent, api.denied = False, {("", "patch pods/resize")}
        await asyncio.sleep(RECHECK_S)
        assert len(changes) == 1
        api.denied = set()
        await asyncio.sleep(RECHECK_S)
        assert changes[1:] == [None]
        asked = len(api.asked)
        await asyncio.sleep(10 * RECHECK_S)
        assert len(api.asked) == asked
        task.cancel()

    run_virtual(scenario)


def test_the_chart_grants_every_right_that_is_checked() -> None:
    text = (CHART / "templates" / "_helpers.tpl").read_text()
    rules = text[text.index('{{- define "sponge.rules" -}}') :]
    rules = rules[rules.index("\n") : rules.index("{{- end")]
    granted = {
        str(Right(verb, resource, group))
        for rule in yaml.safe_load(rules)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if "resourceNames" not in rule
    }
    assert {str(right) for right in RIGHTS} <= granted
