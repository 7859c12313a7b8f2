"""`sponge cluster`: starts, stops and shows the local Kubernetes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from sponge_cluster import NodeAction

__all__ = ["command"]

_name = click.option("--name", default="sponge", show_default=True, help="Which cluster.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Start and stop a local Kubernetes for demos and tests.

    If a Docker engine answers and kind is installed, the cluster is a kind cluster. Otherwise it is native: a real
    Kubernetes as plain processes of this machine. That needs root and, the first time, Go and some minutes to build
    Kubernetes. `up` prints which backend it chose, and why. One node runs the pods, or more with --workers.

    \b
    Example:
      sponge cluster up
      export KUBECONFIG=$(sponge cluster kubeconfig)
      kubectl get nodes
      sponge cluster down
    """


@command.command()
@_name
@_json
@click.option(
    "--backend",
    type=click.Choice(["auto", "native", "kind"]),
    default="auto",
    show_default=True,
    help="auto: kind if a Docker engine answers and kind is installed, else native.",
)
@click.option(
    "--workers",
    type=int,
    help="How many nodes run pods, 1 to 8, in two zones in turn. By default as many as the cluster has, also one that "
    "broke, else one.",
)
@click.option(
    "--worker-cpu",
    type=float,
    metavar="CORES",
    help="What each node offers to pods; the rest is reserved. By default all cores of the machine, on each node.",
)
def up(
    name: str,
    as_json: bool,
    backend: Literal["auto", "native", "kind"],
    workers: int | None,
    worker_cpu: float | None,
) -> None:
    """Start the cluster, unless it is running already.

    Prints the path of its kubeconfig. Removes the rest of a crashed cluster first. With several nodes, a node that is
    lost counts as such after 10 s, and its pods are replaced 20 s later (native; kind keeps Kubernetes' defaults).

    \b
    Example:
      sponge cluster up --backend native
      sponge cluster up --workers 2 --worker-cpu 1
    """
    from sponge_cluster import ConsoleProgress, Workers, status
    from sponge_cluster import up as start

    asked = None if workers is None and worker_cpu is None else Workers(1 if workers is None else workers, worker_cpu)
    cluster = start(name, backend, ConsoleProgress(), asked)
    if as_json:
        click.echo(json.dumps(status(name).to_json(), indent=2))
    else:
        click.echo(cluster.kubeconfig)


@command.command()
@_name
@_json
def down(name: str, as_json: bool) -> None:
    """Stop the cluster and remove everything that it made.

    \b
    Example:
      sponge cluster down
    """
    from sponge_cluster import ConsoleProgress
    from sponge_cluster import down as stop

    existed = stop(name, ConsoleProgress())
    if as_json:
        click.echo(json.dumps({"name": name, "existed": existed}))
    elif not existed:
        click.echo(f"cluster '{name}' is not running")


@command.command()
@_name
@_json
def status(name: str, as_json: bool) -> None:
    """Show the status of the cluster; exits with 1 if it is not ready.

    \b
    Example:
      sponge cluster status --json
    """
    from sponge_cluster import status as look

    found = look(name)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        click.echo(f"{found.name}: {found.state}{', Ready' if found.ready else ''}")
        versions = ", ".join(f"{part} {version}" for part, version in (found.versions or {}).items())
        facts = {
            "backend": found.backend,
            "versions": versions,
            "server": found.server,
            "kubeconfig": found.kubeconfig,
        }
        for label, value in facts.items():
            if value:
                click.echo(f"  {label:<11}{value}")
        for node in found.nodes:
            click.echo(f"  node       {node.name}, {node.zone}, {node.address}{'' if node.ready else '  (not ready)'}")
        for process in found.processes:
            click.echo(f"  {process.name:<24}pid {process.pid}{'' if process.running else '  (dead)'}")
    if not found.ready:
        click.get_current_context().exit(1)


@command.command("node")
@_name
@click.argument("action", type=click.Choice(["stop", "start", "pause", "resume", "cut", "heal"]))
@click.argument("node")
def change(name: str, action: NodeAction, node: str) -> None:
    """Let a node of the native cluster fail, or recover.

    \b
    stop     it dies with its pods, and is off the network
    start    what is dead of it starts again; also ends pause and cut
    pause    its kubelet hangs; its pods go on
    resume   its kubelet goes on, after pause
    cut      every packet from and to it is lost; not possible for the first node
    heal     it is on the network again, after cut

    \b
    Example:
      sponge cluster node stop sponge-node2
    """
    from sponge_cluster import ConsoleProgress, change_node

    change_node(node, action, name, ConsoleProgress())


@command.command()
@_name
@click.option("--raw", is_flag=True, help="Print the content of the file instead of its path.")
def kubeconfig(name: str, raw: bool) -> None:
    """Print the path of the cluster's kubeconfig.

    \b
    Example:
      export KUBECONFIG=$(sponge cluster kubeconfig)
    """
    from sponge_cluster import connect

    path = connect(name).kubeconfig
    click.echo(path.read_text() if raw else path, nl=not raw)


@command.command("install-operator")
@_name
def install(name: str) -> None:
    """Install the operator into the cluster by Helm, or upgrade it.

    Its pods, and the pods of every SpongeService, run this machine's Python environment: no images to build. For any
    other cluster: helm install sponge deploy/helm/sponge --namespace sponge-system --create-namespace

    \b
    Example:
      sponge cluster up
      sponge cluster install-operator
    """
    from sponge_cluster import connect
    from sponge_cluster.chart import NAMESPACE, install_operator

    install_operator(connect(name))
    click.echo(f"The operator runs in namespace {NAMESPACE}.")
