"""A changed source in the real cluster goes live in the running pod, or replaces the pods; no request is lost."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from operator_kit import Kubectl, Service, eventually, fresh_namespace, identity, memory_limit_mib, operator_pods

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

MODELS = f"python://{Path(__file__).parents[1] / 'server' / 'version_models.py'}"
SMALL, LARGE = f"{MODELS}:Version?answer={{}}", f"{MODELS}:Hungry?mib=450&answer={{}}"
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [5.0]}]})
RATE = 20.0


class Requests:
    """Requests to a service at a steady rate, each on a connection of its own, until `stop`."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}:8080/v2/models/m/infer"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()))
        self.answers: list[float] = []
        self.lost: Counter[str] = Counter()
        self._thread.start()

    async def _send(self) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
            running: set[asyncio.Task[None]] = set()
            while not self._stopping.is_set():
                running.add(asyncio.create_task(self._ask(session)))
                await asyncio.sleep(1 / RATE)
                running = {task for task in running if not task.done()}
            await asyncio.gather(*running)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        try:
            async with session.post(self._url, data=BODY, headers={"content-type": "application/json"}) as reply:
                told = await reply.text()
        except aiohttp.ClientError as error:
            self.lost[repr(error)] += 1
            return
        if reply.status == 200:
            self.answers.append(json.loads(told)["outputs"][0]["data"][0])
        else:
            self.lost[f"{reply.status} {told}"] += 1

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


@pytest.fixture(scope="module")
def service(operator_running: None, kubectl: Kubectl) -> Iterator[Service]:
    """A service that answers 1 at first; each test leaves one pod that is ready."""
    with fresh_namespace(kubectl, "e2e-versions") as namespace:
        service = Service(kubectl, namespace, "versioned")
        service.apply(
            model={"name": "m", "source": SMALL.format(1)},
            slo={"latency": "20s"},
            cpu={"min": "250m", "max": "1500m", "step": "125m"},
        )
        service.wait_ready()
        yield service


@contextmanager
def steady(service: Service) -> Iterator[Requests]:
    """Requests all the time; none of them may be lost."""
    where = ("-n", service.namespace, "-o", "jsonpath={.spec.clusterIP}")
    requests = Requests(service.kubectl("get", "service", service.name, *where))
    try:
        eventually(lambda: requests.answers, 10, "the first answer")
        yield requests
    finally:
        requests.stop()
    assert requests.lost == {}


def change(service: Service, source: str) -> None:
    service.patch(model={"source": source})


def live(service: Service, source: str) -> bool:
    """Whether the status says that every pod serves the source, and shows it."""
    status = service.get()["status"]
    told = next(c for c in status["conditions"] if c["type"] == "SourceLive")
    served = [pod.get("source") for pod in status["pods"]]
    return bool(told["status"] == "True" and told["message"].endswith(source) and set(served) == {source})


def template(service: Service) -> dict[str, Any]:
    found = service.kubectl("get", "deployment", service.name, "-n", service.namespace, "-o", "json")
    return dict(json.loads(found)["spec"]["template"])


def test_a_changed_source_goes_live_in_the_running_pod(service: Service) -> None:
    pod, before = service.pod(), template(service)
    with steady(service) as requests:
        change(service, SMALL.format(2))
        eventually(lambda: requests.answers[-1] == 2, 60, "the new source answers")
        eventually(lambda: live(service, SMALL.format(2)), 20, "the status says so")
    assert identity(service.pod()) == identity(pod)
    assert template(service) == before
    changed_at = requests.answers.index(2)
    assert set(requests.answers[:changed_at]) == {1}
    assert set(requests.answers[changed_at:]) == {2}
    assert service.is_("Ready", "True", "PodsReady")
    assert ("Normal", "SourceLive") in service.events()


def test_a_source_that_cannot_be_loaded_leaves_the_former_one_and_says_why(service: Service) -> None:
    pod, former = service.pod(), service.pod()["metadata"]["name"]
    with steady(service) as requests:
        change(service, f"{SMALL.format(3)}&fails=true")
        eventually(lambda: service.is_("SourceLive", "False", "LoadFailed"), 60, "the status says why")
        assert "these weights are torn" in service.condition("SourceLive")["message"]
        assert service.is_("Ready", "False", "LoadFailed")
        assert service.is_("Available", "True", "PodsServe")
        assert ("Warning", "LoadFailed") in service.events()
        change(service, SMALL.format(2))
        eventually(lambda: live(service, SMALL.format(2)), 20, "the former one is wanted again")
    assert set(requests.answers) == {2}
    assert (service.pod()["metadata"]["name"], identity(service.pod())) == (former, identity(pod))


def test_a_pod_that_is_deleted_by_hand_comes_back_with_the_new_source(service: Service) -> None:
    former = service.pod()["metadata"]["name"]
    service.kubectl("delete", "pod", former, "-n", service.namespace)
    service.wait_ready()
    eventually(lambda: live(service, SMALL.format(2)), 30, "it serves what the former one did last")
    assert service.pod()["metadata"]["name"] != former
    with steady(service) as requests:
        pass
    assert set(requests.answers) == {2}


def loads(pod: dict[str, Any]) -> int:
    """How many sources the pod has taken into service since it started, by its server's metric."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9090/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.search(r'^sponge_model_loads_total\{model="m",outcome="live"\} (\S+)$', text, re.MULTILINE)
    return 0 if found is None else int(float(found[1]))


def test_two_pods_follow_each_other_while_the_operator_is_replaced(service: Service, kubectl: Kubectl) -> None:
    service.patch(replicas={"min": 2, "max": 2})
    eventually(lambda: len(service.pods()) == 2, 20, "a second pod")
    service.wait_ready()
    before = {pod["metadata"]["name"]: (identity(pod), loads(pod)) for pod in service.pods()}
    with steady(service) as requests:
        change(service, SMALL.format(3))
        eventually(lambda: service.is_("SourceLive", "False", "SourceLoading"), 30, "a pod loads it")
        for operator in operator_pods(kubectl):
            kubectl("delete", "pod", operator["metadata"]["name"], "-n", "sponge-system", "--wait=false")
        eventually(lambda: live(service, SMALL.format(3)), 120, "both pods serve it")
        eventually(lambda: set(requests.answers[-50:]) == {3}, 20, "and answer")
    assert set(requests.answers) == {2, 3}
    after = {pod["metadata"]["name"]: (identity(pod), loads(pod)) for pod in service.pods()}
    assert after == {name: (same, count + 1) for name, (same, count) in before.items()}, "each has loaded it once"
    service.patch(replicas={"min": 1, "max": 1})
    eventually(lambda: len(service.pods()) == 1, 60, "one pod is left")


def test_a_source_that_does_not_fit_beside_the_former_one_replaces_the_pods(service: Service) -> None:
    change(service, LARGE.format(4))
    eventually(lambda: live(service, LARGE.format(4)), 90, "the small one leaves it room, or else a new pod has it")
    eventually(lambda: len(service.pods(leaving=True)) == 1, 60, "a pod that was replaced answers no more")
    pod = service.pod()
    with steady(service) as requests:
        change(service, LARGE.format(5))
        eventually(lambda: live(service, LARGE.format(5)), 120, "a new pod has the new source")
        eventually(lambda: requests.answers[-1] == 5, 20, "and answers")
    assert service.pod()["metadata"]["name"] != pod["metadata"]["name"]
    assert set(requests.answers) == {4, 5}
    assert ("Normal", "SourceRolls") in service.events()


def test_with_memory_in_place_the_limit_grows_for_the_time_of_the_change(service: Service) -> None:
    service.patch(memory={"inPlace": True})
    pod, limit = service.pod(), memory_limit_mib(service.pod())
    seen = {limit}
    with steady(service) as requests:
        change(service, LARGE.format(6))

        def is_live() -> bool:
            seen.add(memory_limit_mib(pod))
            return live(service, LARGE.format(6))

        eventually(is_live, 90, "the new source is live")
        eventually(lambda: requests.answers[-1] == 6, 5, "and answers")
        eventually(lambda: memory_limit_mib(pod) <= limit, 60, "the pod has no more memory than before")
    assert identity(service.pod()) == identity(pod)
    assert max(seen) == 2 * limit
