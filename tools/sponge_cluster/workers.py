"""The nodes that run pods: how many, what each one offers, and its zone. The same for both backends."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sponge_cluster.errors import ClusterError

__all__ = ["MOST_WORKERS", "ZONE_LABEL", "Workers", "zone"]

MOST_WORKERS = 8
"""A native node has an address range and a digit in its names; and each takes some 250 MiB of memory."""

ZONE_LABEL = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class Workers:
    """The nodes that run pods.

    Attributes:
        count: how many nodes, 1 to `MOST_WORKERS`.
        cores: what each node offers to pods, in cores; None: all cores of the machine.
    """

    count: int = 1
    cores: float | None = None

    def check(self, machine_cores: int) -> None:
        """Refuses what a machine of so many cores cannot have.

        Raises:
            ClusterError: the message says what is possible.
        """
        if not 1 <= self.count <= MOST_WORKERS:
            raise ClusterError(f"{self.count} nodes are not possible: use --workers 1 to {MOST_WORKERS}")
        if self.cores is not None and not 0.1 <= self.cores <= machine_cores:
            raise ClusterError(
                f"a node of {self.cores:g} cores is not possible here: use --worker-cpu 0.1 to {machine_cores}"
            )

    def system_reserved(self, machine_cores: int) -> dict[str, str]:
        """The kubelet's `systemReserved`: what a node of this machine does not offer to pods."""
        if self.cores is None:
            return {}
        return {"cpu": f"{round(1000 * (machine_cores - self.cores))}m"}

    def __str__(self) -> str:
        """Words for messages."""
        nodes = "one node" if self.count == 1 else f"{self.count} nodes"
        return nodes if self.cores is None else f"{nodes} of {self.cores:g} cores"

    def to_json(self) -> dict[str, Any]:
        """Plain values: the constructor's arguments."""
        return asdict(self)


def zone(number: int) -> str:
    """The zone of a node, counted from 1: two zones in turn, so that pods can be spread over zones and over nodes."""
    return f"zone-{'ab'[(number - 1) % 2]}"
