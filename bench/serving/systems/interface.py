"""The interface of a system under test. Each system is one file in this package and one line in `SYSTEMS`.

A system describes how to start its server and how a request looks. The harness starts and measures it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.serving.shared import Outputs
from bench.serving.workloads import DEFAULT, Served, Workload

__all__ = ["REPOSITORY", "Knobs", "Launch", "System", "Wire"]

Knobs = Mapping[str, Any]
"""A configuration, plain JSON: threads, processes, batch, wait window, queue bound, timeouts and so on."""

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Launch:
    """A server's command. It is started in an empty folder of its own, in the system's environment, inside the cgroup.

    Attributes:
        env: beside what all systems get: OMP_WAIT_POLICY=passive, and the repository on PYTHONPATH, so that a server
            can `from bench.serving.model import load_model`.
        files: written into the folder first, by relative path.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wire:
    """A request over HTTP/1.1.

    Attributes:
        headers: without Host and Content-Length.
        body: parts that are sent one after the other. Pass the tensor on as the object that was given, and what depends
            on the deadline as a part of its own: parts are kept for every request of a run.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: tuple[bytes, ...]


class System(ABC):
    """A model server under test.

    Attributes:
        name: in tables and on the command line.
        packages: what pip installs into the system's own environment, exact versions, the server's own package first;
            the environment also sees the project's torch, torchvision, numpy and runtimes, behind its own packages. ()
            takes the project's environment.
        defaults: the knobs as the system comes, with no thought given to this load; only what must be set.
        ready_path: answers GET with 200 once the server takes requests.
        refusals: status codes by which it refuses a request for want of time or room; any other failure is an error.
        sent_at: the header in which it takes the client's send time, in epoch seconds; None where it knows none.
    """

    name: str
    packages: tuple[str, ...] = ()
    defaults: Knobs
    ready_path: str = "/"
    refusals: frozenset[int] = frozenset({408, 429, 503, 504})
    sent_at: str | None = None

    def __init__(self, served: Served = DEFAULT) -> None:
        self.served = served

    @property
    def workload(self) -> Workload:
        """What it serves, in whichever runtime."""
        return self.served.workload

    @property
    def version(self) -> str:
        """Of the server's own package; names the environment."""
        return self.packages[0].partition("==")[2] if self.packages else "project"

    @abstractmethod
    def candidates(self, cores: float) -> list[Knobs]:
        """What tuning tries, best guesses first: every system gets the same number of tries."""

    @abstractmethod
    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        """The command that serves the model on 127.0.0.1:`port`.

        Args:
            python: of the system's environment; scripts that its packages install are beside it.
            cores: the CPU limit of the cgroup.
        """

    @abstractmethod
    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        """A request for one row; with its deadline, `slo_s` from now, in whatever form the server understands.

        Args:
            body: a raw tensor of the workload, one of a few objects that are used again and again.
        """

    def outputs(self, headers: Mapping[str, str], body: bytes) -> Outputs:
        """The numbers of an answer with status 200: raw float32 unless a system overrides it.

        Args:
            headers: of the answer, names in lower case.

        Raises:
            ValueError: the body is no answer.
        """
        outputs: Outputs = np.frombuffer(body, "<f4")
        return outputs
