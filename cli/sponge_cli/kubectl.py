"""`kubectl sponge`: looks at SpongeServices, pauses and wakes them.

kubectl finds the command `kubectl-sponge` in the PATH. It asks the API server by kubectl itself, so contexts, logins
and proxies are those that work for kubectl.
"""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec

import click

from sponge_core.resource_names import GROUP, PAUSE_ANNOTATION, PLURAL, WAKE_ANNOTATION

__all__ = ["main"]

RESOURCE = f"{PLURAL}.{GROUP}"

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class _Cluster:
    """The cluster and namespace that the options name."""

    options: tuple[str, ...]

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints. Raises click.ClickException with what to do."""
        try:
            done = subprocess.run(["kubectl", *arguments, *self.options], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise click.ClickException("kubectl is not in the PATH; install it") from None
        if done.returncode:
            raise click.ClickException(_advice(done.stderr.strip()))
        return done.stdout

    def service(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", RESOURCE, name, "-o", "json"))
        return found


def _advice(error: str) -> str:
    """kubectl's error, with what to do where that is known."""
    if "the server doesn't have a resource type" in error:
        return "the cluster has no SpongeServices: install the chart, or apply crds/spongeservice.yaml"
    if "(NotFound)" in error:
        return f"{error}\nSee `kubectl get sps --all-namespaces`; choose the namespace with -n."
    if "(Forbidden)" in error:
        return f"{error}\nAsk for the right to get and patch {RESOURCE} in this namespace."
    return error or "kubectl failed without a message"


def _command(function: Callable[Concatenate[_Cluster, str, P], None]) -> Callable[..., None]:
    """Gives a command the argument NAME and kubectl's usual options."""

    @click.argument("name")
    @click.option("-n", "--namespace", help="Namespace of the service.  [default: that of the context]")
    @click.option("--context", help="Context of the kubeconfig.")
    @click.option("--kubeconfig", help="File with the credentials.")
    @functools.wraps(function)
    def run(
        name: str, namespace: str | None, context: str | None, kubeconfig: str | None, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        chosen = {"namespace": namespace, "context": context, "kubeconfig": kubeconfig}
        options = tuple(f"--{option}={value}" for option, value in chosen.items() if value is not None)
        function(_Cluster(options), name, *args, **kwargs)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Look at SpongeServices, and pause them."""


@cli.command()
@_command
def status(cluster: _Cluster, name: str) -> None:
    """Show whether a service is ready, why not, and what its pods have."""
    service = cluster.service(name)
    spec, told = service["spec"], service.get("status") or {}
    click.echo(f"{name}: {told.get('serving', '0')} pods ready, mode {spec.get('mode', 'Auto')}")
    click.echo(
        f"cores {told.get('cores', '-')}, wanted {told.get('desiredCores', '-')}, batch {told.get('batch', '-')}"
    )
    click.echo(f"in time {told.get('attainment', '-')} %, p99 {told.get('p99', '-')}")
    if told.get("observedGeneration") != service["metadata"].get("generation"):
        click.echo("the operator has not seen the newest spec yet: is it running?")
    rows = [(c["type"], c["status"], c.get("reason", ""), c.get("message", "")) for c in told.get("conditions") or ()]
    _table(("CONDITION", "STATUS", "REASON", "MESSAGE"), rows)
    _pods(told, ("POD", "CORES", "WANTED", "BATCH", "REASON"))


@cli.command()
@_command
def explain(cluster: _Cluster, name: str) -> None:
    """Show the newest decisions with what they were made from."""
    told = cluster.service(name).get("status") or {}
    decisions = told.get("lastDecisions") or ()
    if not decisions:
        click.echo("no decision has changed anything yet")
    for one in decisions:
        click.echo(f"{one['time']} {one['pod']}: {one['from']} -> {one['to']} cores, batch {one['batch']}")
        urgent = "requests about to miss their deadlines" if one.get("urgent") else "nothing urgent"
        click.echo(f"  {one['reason']}, {one['outcome']}; {urgent}, {one['queue']} waiting, {one['arrivals']} forecast")
        click.echo(f"  misses expected by size: {one.get('frontier') or 'the server projects nothing'}")


@cli.command()
@_command
def recommend(cluster: _Cluster, name: str) -> None:
    """Show the sizes that mode Recommend would recommend; changes nothing."""
    service = cluster.service(name)
    told, mode = service.get("status") or {}, service["spec"].get("mode", "Auto")
    if mode == "Off":
        raise click.ClickException("the mode is Off, so nothing is decided; set spec.mode to Recommend or Auto")
    _pods(told, ("POD", "HAS", "SHOULD HAVE", "BATCH", "REASON"))
    planning: Mapping[str, Any] = next((c for c in told.get("conditions") or () if c["type"] == "Planning"), {})
    click.echo(f"{mode}: {planning.get('message', 'the operator has said nothing yet')}")
    if (number := told.get("scaling")) is not None:
        click.echo(f"pods: {number['serving']} serve, {number['wanted']} should")


@cli.command()
@click.option("--grow", "what", flag_value="grow", help="Pause growing only.")
@click.option("--shrink", "what", flag_value="shrink", help="Pause shrinking only.")
@_command
def pause(cluster: _Cluster, name: str, what: str | None) -> None:
    """Keep the sizes of a service as they are until `resume`."""
    click.echo(
        cluster.kubectl("annotate", RESOURCE, name, f"{PAUSE_ANNOTATION}={what or 'true'}", "--overwrite"), nl=False
    )


@cli.command()
@_command
def resume(cluster: _Cluster, name: str) -> None:
    """Let the operator size a service again."""
    click.echo(cluster.kubectl("annotate", RESOURCE, name, f"{PAUSE_ANNOTATION}-"), nl=False)


@cli.command()
@_command
def wake(cluster: _Cluster, name: str) -> None:
    """Ask for a pod of a service that has none for want of requests."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _annotate(cluster, name, WAKE_ANNOTATION, now)


def _annotate(cluster: _Cluster, name: str, annotation: str, value: str) -> None:
    click.echo(cluster.kubectl("annotate", RESOURCE, name, f"{annotation}={value}", "--overwrite"), nl=False)


def _pods(told: Mapping[str, Any], header: Sequence[str]) -> None:
    pods = told.get("pods") or ()
    keys = ("name", "actuatedCores", "cores", "batch", "reason")
    _table(header, [[str(pod.get(key, "-")) for key in keys] for pod in pods])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header) - 1)]
    click.echo()
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        click.echo("  ".join([*cells, line[-1]]))


def main() -> None:
    """Runs the command line and exits."""
    cli(prog_name="kubectl sponge")
