"""The rights that the chart grants are those that the operator uses: no verb is too much and none is missing."""

from __future__ import annotations

import re

import yaml

from sponge_cluster.chart import CHART
from sponge_operator.clients.kube import collection_path
from sponge_operator.handlers import ALWAYS_WATCHED
from sponge_operator.reconcile.preflight import RIGHTS

Right = tuple[str, str, str]

CHILDREN = ("Secret", "ConfigMap", "Deployment", "Service")
SERVING = "serving.sponge.dev"

OWN: set[Right] = {
    ("", "pods", "get"),  # a pod that does not answer is looked up
    ("", "pods", "patch"),  # the pod that goes first is marked
    ("", "pods/resize", "patch"),
    ("", "events", "create"),
    (SERVING, "spongeservices", "get"),  # before pods without a service are restored
    (SERVING, "spongeservices", "patch"),  # the finalizer of versions up to 0.1.0 is removed
    (SERVING, "spongeservices/status", "patch"),
    (SERVING, "spongeservices/finalizers", "update"),  # children name their owner and block its deletion
}


def resource(kind: str) -> tuple[str, str]:
    """Group and plural of a kind, from the path of its objects."""
    parts = collection_path(kind, None).split("/")
    return ("" if parts[1] == "api" else parts[2]), parts[-1]


def used() -> set[Right]:
    watched = {(*resource(kind), verb) for kind in (*ALWAYS_WATCHED, "VerticalPodAutoscaler") for verb in WATCH}
    applied = {(*resource(kind), verb) for kind in CHILDREN for verb in ("get", "create", "patch")}
    return watched | applied | OWN


WATCH = ("list", "watch")


def granted() -> set[Right]:
    """The rules in the watched namespaces, which hold no template expression."""
    text = (CHART / "templates" / "_helpers.tpl").read_text().partition('define "sponge.rules" -}}')[2]
    rules = yaml.safe_load(text.partition("{{-")[0])
    return {
        (group, name, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for name in rule["resources"]
        for verb in rule["verbs"]
    }


def test_each_verb_is_used_and_each_use_is_granted() -> None:
    assert granted() - used() == set(), "the chart grants what nothing uses"
    assert used() - granted() == set(), "the operator needs what the chart does not grant"


def test_the_preflight_asks_only_for_what_is_granted() -> None:
    assert {(right.group, right.resource, right.verb) for right in RIGHTS} <= granted()


def test_secrets_are_never_listed_and_nothing_is_deleted() -> None:
    assert {verb for group, name, verb in granted() if (group, name) == ("", "secrets")} == {"get", "create", "patch"}
    assert not {right for right in granted() if right[2] in ("delete", "deletecollection", "*", "escalate", "bind")}


def test_users_may_not_write_the_status() -> None:
    text = (CHART / "templates" / "user-roles.yaml").read_text()
    edit = text.partition(". }}-edit")[2]
    assert re.findall(r"resources: \[(.*)\]", edit) == ["spongeservices"]
