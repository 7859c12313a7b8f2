"""Measures a grid in a pod of a cluster, which is resized in place from one CPU limit to the next.

So the profile is one of the node that will serve. The pod runs `sponge_profiler.worker`, which answers requests on its
standard input and output. The pod is deleted at the end of the measurement, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sponge_core.errors import SpongeError
from sponge_core.quantities import cpu_quantity
from sponge_operator.autoscale import quota_state, resize
from sponge_operator.autoscale.ceiling import from_api, may_have
from sponge_operator.autoscale.look import ResizeOutcome
from sponge_operator.autoscale.resizer import act
from sponge_operator.autoscale.target import QuotaRefusedError
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.resources.manifests import CONTAINER
from sponge_operator.resources.merge import strategic_merge
from sponge_profiler.cluster_access import find_access
from sponge_profiler.local import MeasurementPlan, OpenCheckpoint, measure_plan, record_provenance
from sponge_profiler.row_sizes import DeclaredSizes
from sponge_profiles.timing import BatchTime

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["PodError", "PodPlan", "ProfilePod", "hindrance", "measure_in_cluster", "pod_manifest"]

LABELS = {"app.kubernetes.io/name": "sponge-profile", "app.kubernetes.io/managed-by": "sponge-profile"}
START_S = 180.0
"""Pulling the image and starting the container."""
LOAD_S = 300.0
RESIZE_S = 30.0
"""The kubelet of 1.36 takes 40 ms, that of 1.33 up to a minute for some; a stuck resize is repeated before."""
BATCH_S = 600.0
POLL_S = 0.05


class PodError(SpongeError):
    """A pod that cannot be created, resized or reached; the message says why and what helps."""


@dataclass(frozen=True, slots=True)
class PodPlan:
    """The pod to measure in.

    Attributes:
        namespace: an existing namespace.
        image: of a model server; None: the template's, else that of this version.
        template: a partial pod template, merged over the default one.
        memory: request and limit, as a Kubernetes quantity.
    """

    namespace: str
    image: str | None
    template: Mapping[str, Any]
    memory: str


async def measure_in_cluster(
    plan: MeasurementPlan, pod_plan: PodPlan, open_checkpoint: OpenCheckpoint, console: Console
) -> None:
    """Measures the cells that the checkpoint lacks, in a pod of its own.

    Raises:
        PodError: the pod cannot be created, or was lost.
        asyncio.CancelledError: the process received SIGTERM.
    """
    task = asyncio.current_task()
    assert task is not None
    # On SIGTERM delete the pod, as after Ctrl-C.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    most = plan.most_cores
    arguments = [plan.source, "--name", plan.name, "--max-batch", str(plan.largest_batch)]
    arguments += ["--lanes", str(plan.lanes), "--threads", str(max(1, int(most)))]
    with console.status(f"starting a pod with {most:g} cores in namespace {pod_plan.namespace}") as waiting:
        async with ProfilePod(pod_plan, arguments, round(most * 1000), waiting.update) as pod:
            waiting.stop()
            about = pod.about["surroundings"]
            if pod.about["warning"]:
                console.print(f"note: {pod.about['warning']}", highlight=False, soft_wrap=True)
            checkpoint = open_checkpoint(plan.about(about | {"the node": pod.node}, "a pod's"))
            limit = f"under the CPU limit of a pod on node {pod.node}, resized in place"
            record_provenance(checkpoint, about, limit, pod.about["platform"], pod.about["memory"])
            declared = pod.about["sizes"]
            sizes = None if declared is None else DeclaredSizes.model_validate(declared)
            await measure_plan(plan, checkpoint, pod.run_batch, sizes, pod.set_cores, console)


def pod_manifest(plan: PodPlan, name: str, arguments: list[str], milli: int) -> dict[str, Any]:
    """The manifest of a Guaranteed pod that can be resized in place and is not restarted.

    Args:
        arguments: of `sponge`.
        milli: its first CPU limit, in millicores.
    """
    named = {} if plan.image is None else {"image": plan.image}
    size = {"cpu": cpu_quantity(milli), "memory": plan.memory}
    base = {
        "metadata": {"labels": LABELS},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            # The lanes pass tensors in shared memory; a container's own /dev/shm has only 64 MiB.
            "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}}],
            "containers": [
                {
                    "name": CONTAINER,
                    "image": f"sponge-server:{version('sponge-serving')}",
                    "command": ["sponge"],
                    "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    essentials = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": plan.namespace},
        "spec": {
            "containers": [
                {
                    **named,
                    "name": CONTAINER,
                    "args": arguments,
                    # The end of the input ends the process, and so the pod.
                    "stdin": True,
                    "stdinOnce": True,
                    "resources": {"requests": size, "limits": dict(size)},
                    "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
                }
            ]
        },
    }
    return strategic_merge(strategic_merge(base, plan.template), essentials)


class ProfilePod:
    """A pod that exists from `async with` to the end of the block.

    Args:
        arguments: of `profile-worker`.
        milli: the largest CPU limit of the measurement, in millicores. The pod starts with it, so that it is known to
            fit the node.
        say: called with a line of progress for every step.
    """

    def __init__(self, plan: PodPlan, arguments: list[str], milli: int, say: Callable[[str], None]) -> None:
        self.name = f"sponge-profile-{secrets.token_hex(3)}"
        self.node = ""
        self.about: Mapping[str, Any] = {}
        self._plan = plan
        self._arguments = ["profile-worker", *arguments]
        self._milli = milli
        self._say = say
        self._kubectl = ""
        named = os.environ.get("KUBECONFIG")
        self._kube = Kube(Path(named) if named else None)
        self._pod: dict[str, Any] = {}
        self._attached: Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._ids = count()
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._heard: list[str] = []  # other output: warnings, a traceback

    async def __aenter__(self) -> Self:
        access = find_access(Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config"))
        self._kubectl = str(access.kubectl)
        plan = replace(self._plan, template=strategic_merge(access.template, self._plan.template))
        await self._kube.__aenter__()
        try:
            await self._create(pod_manifest(plan, self.name, self._arguments, self._milli))
            await self._running()
            self.node = self._pod["spec"]["nodeName"]
            self._say(f"loading {self._arguments[1]} in pod {self.name} on node {self.node}")
            await self._attach()
            answer = await self._ask({}, LOAD_S)
            self.about = answer["about"]
        except BaseException:
            await asyncio.shield(self._leave())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._leave())

    async def run_batch(self, batch: int, threads: int, size: int | None = None) -> BatchTime:
        """Runs one batch on a free lane of the pod. Raises PodError."""
        sized = {} if size is None else {"size": size}
        answer = await self._ask({"batch": batch, "threads": threads, **sized}, BATCH_S)
        return BatchTime(answer["wall_s"], answer["cpu_s"])

    async def set_cores(self, cores: float) -> None:
        """Resizes the pod in place; returns once the quota is in force in the container. Raises PodError."""
        milli, clock = round(cores * 1000), time.monotonic
        history, end, observed = resize.History(), clock() + RESIZE_S, await self._observe()
        while observed != quota_state.Idle(milli):
            if clock() > end:
                raise PodError(f"pod {self.name} has not got {cores:g} cores after {RESIZE_S:g} s; check its kubelet")
            action = resize.step(observed, milli, history, clock())
            if isinstance(action, resize.Nothing):
                await asyncio.sleep(POLL_S)
            outcome = await act(self, action, history, clock, resize.STUCK_S)
            self._refuse(outcome, cores)
            history, observed = outcome.history, await self._observe()

    def observe(self, quota_milli: int | None) -> quota_state.Observed:
        """The state of the pod's resize when it was last read."""
        return quota_state.observe(self._pod, CONTAINER, quota_milli)

    async def set_quota(self, milli: int) -> None:
        """Patches the pod. Raises QuotaRefusedError."""
        try:
            self._pod = await self._kube.resize(self._pod, CONTAINER, milli)
        except ApiError as error:
            has_milli = quota_state.actual_milli(self.observe(None)) or milli
            refusal = from_api(
                error.status, error.body, milli, has_milli, retry_after_s=error.retry_after_s, node=self.node
            )
            raise QuotaRefusedError(may_have(refusal)) from None

    async def settled(self, milli: int, deadline: float) -> quota_state.Observed:
        """Waits until the worker reads the quota `milli`, the resize is refused, or the deadline."""
        while True:
            observed = await self._observe()
            under_way = isinstance(observed, quota_state.Idle | quota_state.InFlight)
            if not under_way or observed == quota_state.Idle(milli) or time.monotonic() > deadline:
                return observed
            await asyncio.sleep(POLL_S)

    async def _observe(self) -> quota_state.Observed:
        quota = (await self._ask({"quota": True}, BATCH_S))["quota_milli"]
        self._pod = await self._get()
        observed = self.observe(quota)
        if isinstance(observed, quota_state.Idle) and quota is not None and observed.milli != quota:
            return quota_state.InFlight(observed.milli, quota)  # the status is ahead of the container's own quota
        return observed

    def _refuse(self, outcome: ResizeOutcome, cores: float) -> None:
        where = f"pod {self.name} cannot have {cores:g} cores on node {self.node}"
        message = outcome.history.blocked.message if outcome.history.blocked else ""
        match outcome.kind:
            case "deferred":
                raise PodError(f"{where} now: {message}; free some there, or measure fewer with --cores")
            case "infeasible":
                raise PodError(f"{where}: {message}; measure fewer with --cores")
            case "error":
                raise PodError(f"{where}: its kubelet reports {message}")
            case "rejected":
                raise PodError(f"pod {self.name} was refused {cores:g} cores: {message}; name others with --cores")
        if isinstance(outcome.quota, quota_state.NotResizable):
            raise PodError(f"pod {self.name} cannot be resized: {outcome.quota.message}{self._last_words()}")

    async def _create(self, manifest: Mapping[str, Any]) -> None:
        try:
            self._pod = await self._kube.apply(manifest)
        except ApiError as error:
            namespace = self._plan.namespace
            if error.status == 404:
                raise PodError(f"no namespace '{namespace}': create it, or name another with --namespace") from None
            raise PodError(f"cannot create a pod in namespace '{namespace}': {error}") from None

    async def _get(self) -> dict[str, Any]:
        try:
            pod = await self._kube.get("Pod", self._plan.namespace, self.name)
        except ApiError as error:
            raise PodError(f"pod {self.name} cannot be read: {error}") from None
        if pod is None:
            raise PodError(f"pod {self.name} was deleted during the measurement")
        return pod

    async def _running(self) -> None:
        """Waits until the container runs. Raises PodError as soon as it is clear that it will not."""
        until = time.monotonic() + START_S
        while True:
            self._pod = await self._get()
            if (why := hindrance(self._pod)) is not None:
                raise PodError(f"pod {self.name} does not start: {why}")
            if self._pod.get("status", {}).get("phase") == "Running":
                return
            if time.monotonic() > until:
                raise PodError(f"pod {self.name} does not run after {START_S:g} s; kubectl describe says more")
            await asyncio.sleep(POLL_S)

    async def _attach(self) -> None:
        arguments = ("attach", "--stdin", "--quiet", "--namespace", self._plan.namespace, "--container", CONTAINER)
        self._attached = await asyncio.create_subprocess_exec(
            self._kubectl, *arguments, self.name, stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True
        )
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self._attached is not None
        assert self._attached.stdout is not None
        async for line in self._attached.stdout:
            try:
                answer = json.loads(line)
                waiting = self._waiting.pop(answer["id"])
            except (ValueError, KeyError, TypeError):
                self._heard.append(line.decode(errors="replace").rstrip())
                continue
            if "error" in answer:
                waiting.set_exception(PodError(f"in pod {self.name}: {answer['error']}"))
            else:
                waiting.set_result(answer)
        for waiting in self._waiting.values():
            waiting.set_exception(PodError(f"pod {self.name} has ended{self._last_words()}"))
        self._waiting.clear()

    def _last_words(self) -> str:
        return f": {self._heard[-1]}" if self._heard else ""

    async def _ask(self, question: Mapping[str, Any], within_s: float) -> Mapping[str, Any]:
        assert self._attached is not None
        assert self._attached.stdin is not None
        assert self._listening is not None
        number = next(self._ids)
        if self._listening.done():
            raise PodError(f"pod {self.name} has ended{self._last_words()}")
        self._waiting[number] = asyncio.get_running_loop().create_future()
        with contextlib.suppress(ConnectionError):  # `_listen` reports it
            self._attached.stdin.write(json.dumps({"id": number, **question}).encode() + b"\n")
        try:
            async with asyncio.timeout(within_s):
                return await self._waiting[number]
        except TimeoutError:
            raise PodError(f"pod {self.name} has not answered for {within_s:g} s{self._last_words()}") from None

    async def _leave(self) -> None:
        """Deletes the pod, in whatever state it is."""
        if self._attached is not None and self._attached.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._attached.kill()
            await self._attached.wait()
        if self._listening is not None:
            await asyncio.wait({self._listening})
        if self._pod:
            with contextlib.suppress(ApiError):
                await self._kube.delete("Pod", self._plan.namespace, self.name)
        await self._kube.__aexit__(None, None, None)


def hindrance(pod: Mapping[str, Any]) -> str | None:
    """Why a pod will never run as it is; None if it may."""
    state = pod.get("status") or {}
    for condition in state.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"{condition['message']}; measure fewer cores with --cores, or less --memory"
    for container in state.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"):
            return f"{waiting['reason']}: {waiting.get('message', '')}; name an image with --image"
        if waiting.get("reason") in ("CreateContainerError", "CreateContainerConfigError", "RunContainerError"):
            return f"{waiting['reason']}: {waiting.get('message', '')}"
        if "terminated" in (container.get("state") or {}):
            ended = container["state"]["terminated"]
            return f"its process ended with {ended.get('exitCode')} ({ended.get('reason')})"
    return state.get("message") if state.get("phase") == "Failed" else None
