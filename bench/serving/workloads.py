"""What a campaign serves: images of one size, or texts of many, in one of three runtimes.

A workload says how one request looks, which requests there are and which deadlines they have. Without torch;
`bench.serving.model` computes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from bench.bert_sizes import LONGEST, MEAN_LOG, SHORTEST, SPREAD_LOG, WIDTH, WORDS
from bench.serving.shared import CACHE, Outputs, Rows

__all__ = ["BERT", "DEFAULT", "RESNET18", "RUNTIMES", "WORKLOADS", "Served", "Workload"]

RUNTIMES = ("torch", "onnx", "openvino")

_WORKLOAD, _RUNTIME = "PEER_WORKLOAD", "PEER_RUNTIME"
IMAGES = 8
TEXTS = 96
"""Their lengths are quantiles of the distribution, so that few of them have its mean work."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One model with its requests.

    Attributes:
        name: of the model, in URLs, file names and on the command line.
        title: what is served, in a report.
        unit: of throughput: what one request has.
        input, datatype, shape: one row's tensor, as the Open Inference Protocol writes it; -1 may have any size.
        outputs: numbers in an answer.
        make_bodies: the requests, each as a raw little-endian tensor.
        cores: of the CPU limit, unless the command says otherwise.
        mixes: names of its mixes of deadlines, see `schedule.MIXES`.
        loads: as shares of the capacity.
        usual_rps: capacity for which the deadlines are meant; on a machine with less they are later in proportion.
            None: they are as the mix says on every machine.
    """

    name: str
    title: str
    unit: str
    input: str
    datatype: str
    shape: tuple[int, ...]
    outputs: int
    make_bodies: Callable[[], list[bytes]]
    cores: float
    mixes: tuple[str, ...]
    loads: tuple[float, ...]
    usual_rps: float | None = None

    @property
    def dtype(self) -> str:
        """Of the input, as numpy writes it."""
        return {"FP32": "<f4", "INT64": "<i8"}[self.datatype]

    def file(self, suffix: str) -> Path:
        """A file or folder that `python -m bench.serving setup` makes: the weights, and what is made of them."""
        return CACHE / f"{self.name}-seed0{suffix}"

    def bodies(self) -> list[bytes]:
        """The inputs, each as it is sent; the same on every machine."""
        return _bodies(self.make_bodies)

    def reference(self) -> Outputs:
        """The right answer to each input, a row each."""
        answers: Outputs = np.load(self.file("-answers.npy"))
        return answers

    def shape_of(self, body: bytes) -> tuple[int, ...]:
        """The shape of one row."""
        numbers = len(body) // np.dtype(self.dtype).itemsize
        return tuple(numbers if size < 0 else size for size in self.shape)

    def batch(self, bodies: Sequence[bytes]) -> Rows:
        """Requests as one tensor; shorter ones are filled up with zeros."""
        rows = [np.frombuffer(body, self.dtype).reshape(self.shape_of(body)) for body in bodies]
        if len({row.shape for row in rows}) == 1:
            return np.stack(rows)
        filled = np.zeros((len(rows), max(len(row) for row in rows)), self.dtype)
        for line, row in zip(filled, rows, strict=True):
            line[: len(row)] = row
        return filled

    def batches(self, size: int) -> list[Rows]:
        """All inputs in batches of `size`, those of near lengths together, in an order without meaning."""
        bodies = sorted(self.bodies(), key=len)
        bodies *= -(-size // len(bodies))
        parts = [self.batch(bodies[at : at + size]) for at in range(0, len(bodies) - size + 1, size)]
        random.Random(0).shuffle(parts)
        return parts

    def slower(self, capacity_rps: float) -> float:
        """How many times later deadlines are on a machine of this capacity, at least 1."""
        return 1.0 if self.usual_rps is None else max(1.0, round(self.usual_rps / capacity_rps, 3))


@cache
def _bodies(make: Callable[[], list[bytes]]) -> list[bytes]:
    return make()


def _images() -> list[bytes]:
    """Noise of different brightness, so that a mixed-up answer is seen."""
    noise = np.random.default_rng(0).standard_normal((IMAGES, 3, 224, 224), dtype=np.float32)
    brightness = np.linspace(-2, 2, IMAGES, dtype=np.float32)[:, None, None, None]
    return [image.astype("<f4").tobytes() for image in noise + brightness]


def _texts() -> list[bytes]:
    """Random words."""
    draw, log_tokens = np.random.default_rng(1), NormalDist(MEAN_LOG, SPREAD_LOG)
    lengths = [np.exp(log_tokens.inv_cdf((number + 0.5) / TEXTS)) for number in range(TEXTS)]
    return [
        draw.integers(1, WORDS, int(np.clip(round(length), SHORTEST, LONGEST))).astype("<i8").tobytes()
        for length in lengths
    ]


RESNET18 = Workload(
    name="resnet18",
    title="ResNet-18, float32, one image a request (602,112 bytes)",
    unit="images",
    input="input",
    datatype="FP32",
    shape=(3, 224, 224),
    outputs=1000,
    make_bodies=_images,
    cores=1.5,
    mixes=("classes", "4g"),
    loads=(0.5, 0.7, 0.9, 1.3, 2.0),
)

BERT = Workload(
    name="bert",
    title=f"a BERT of 6 layers, 384 wide, float32, one text of {SHORTEST} to {LONGEST} tokens a request",
    unit="texts",
    input="ids",
    datatype="INT64",
    shape=(-1,),
    outputs=WIDTH,
    make_bodies=_texts,
    cores=2.0,
    mixes=("texts",),
    loads=(0.213, 0.32, 0.479, 0.9, 1.3),
    usual_rps=93.9,
)
"""Loads and deadlines are those of `bench.experiments.sizes`: 20, 30 and 45 requests a second where the capacity is
93.9, and 0.9 and 1.3 times that."""

WORKLOADS = {workload.name: workload for workload in (RESNET18, BERT)}


@dataclass(frozen=True, slots=True)
class Served:
    """A workload, and the runtime that computes it inside of every system."""

    workload: Workload
    runtime: str = RUNTIMES[0]

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which a server's processes know what to serve."""
        return {_WORKLOAD: self.workload.name, _RUNTIME: self.runtime}

    @classmethod
    def of_process(cls) -> Served:
        """What this process serves."""
        return cls(WORKLOADS[os.environ[_WORKLOAD]], os.environ[_RUNTIME])


DEFAULT = Served(RESNET18)
