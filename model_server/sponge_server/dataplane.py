"""From a decoded protocol request to rows in the engine, and from its answer or error back.

What every protocol shares: which model is meant, whether its tensors fit, and which problem an error is on the wire.
Knows the Open Inference Protocol's data, nothing of HTTP's mechanics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TypeVar

from sponge_server.answers import Answer, ExpiredError, FailedError, RejectedError, RequestError, ShedError
from sponge_server.deadlines import Due
from sponge_server.engine import Engine, Job
from sponge_server.lanes.interface import Item, ItemError, ModelInfo, Tensor
from sponge_server.oip import InferRequest, OipError, Strings
from sponge_server.problems import ProblemError, retry_after
from sponge_server.status import Status

__all__ = [
    "EXTENSIONS",
    "MODEL_VERSION",
    "SERVER_NAME",
    "SERVER_VERSION",
    "DataPlane",
    "Encoder",
    "problem_of",
]

T = TypeVar("T")

SERVER_NAME = "sponge"
SERVER_VERSION = version("sponge-serving")

EXTENSIONS = ("binary_tensor_data", "classification", "deadlines")
"""What this server does beyond the core of the protocol, in the words of its clients."""

MODEL_VERSION = "1"
"""A server runs one version of one model; the protocol wants it named."""

Encoder = Callable[[str, str, InferRequest, Sequence[Tensor], Sequence[str] | None], T]
"""Writes the response of a model and version: what was asked, what the model gave, and the names of its classes."""


@dataclass(slots=True)
class DataPlane:
    """One model as the protocols see it. `info` and `engine` are None until the model is loaded."""

    model_name: str
    status: Status
    info: ModelInfo | None = None
    engine: Engine | None = None
    _image_inputs: frozenset[str] = field(default=frozenset(), init=False)

    def attach(self, info: ModelInfo, engine: Engine) -> None:
        """The model is loaded."""
        self.info, self.engine = info, engine
        self._image_inputs = frozenset((info.inputs[0].name, "image")) if info.accepts_images else frozenset()

    def check_model(self, name: str, version: str | None) -> None:
        """Raises ProblemError 404 when this server does not have that model and version."""
        if name != self.model_name:
            raise ProblemError(404, "unknown-model", f"no model {name!r} here; this server has {self.model_name!r}")
        if version is not None and version != MODEL_VERSION:
            raise ProblemError(404, "unknown-version", f"{name!r} has version {MODEL_VERSION!r} only")

    def described(self) -> ModelInfo:
        """The model's inputs and outputs. Raises ProblemError 503 before they are known."""
        if self.info is None:
            raise self._not_ready()
        return self.info

    def serving(self) -> tuple[ModelInfo, Engine]:
        """Raises ProblemError 503 while requests are not taken."""
        if self.info is None or self.engine is None or not self.status.accepting:
            raise self._not_ready()
        return self.info, self.engine

    def check_ready(self) -> None:
        """Raises ProblemError 503 while no requests should be sent here, though some may still be taken."""
        if not self.status.ready:
            raise self._not_ready()

    def submit(self, request: InferRequest, due: Due) -> Job:
        """Queues a request. Raises ProblemError when it does not fit the model."""
        # A request whose body was still coming when the server began to drain was accepted before: it is served.
        if self.info is None or self.engine is None:
            raise self._not_ready()
        info, engine = self.info, self.engine
        try:
            rows = self._rows(request, info)
        except ItemError as error:
            raise ProblemError(422, "does-not-fit-model", str(error)) from None
        try:
            return engine.submit(rows, due)
        except ShedError as error:
            raise problem_of(error) from None

    def encode(self, request: InferRequest, answer: Answer, encoder: Encoder[T]) -> T:
        """The response, as the protocol's encoder writes it."""
        info = self.described()
        try:
            return encoder(self.model_name, MODEL_VERSION, request, answer.outputs, info.labels)
        except OipError as error:
            raise ProblemError(400, "unknown-output", str(error)) from None

    def _not_ready(self) -> ProblemError:
        slug = "draining" if self.status.ending else "not-ready"
        return ProblemError(503, slug, f"not ready: {self.status.text}", retry_after(0))

    def _rows(self, request: InferRequest, info: ModelInfo) -> list[Item]:
        """The request as single rows. Raises ItemError when it does not fit the model."""
        unknown = {ask.name for ask in request.outputs} - {spec.name for spec in info.outputs}
        if unknown:
            names = ", ".join(spec.name for spec in info.outputs)
            raise ItemError(f"the model has no output {', '.join(sorted(unknown))}; it has {names}")
        item = Item(request.tensors, self._images(request.strings, info))
        if not item.images and not item.tensors:
            raise ItemError("the request has no rows: give at least one image")
        info.check(item)
        if item.rows == 1:
            return [item]
        if item.images:
            return [Item(images=(image,)) for image in item.images]
        return [Item(tuple(_row(tensor, row) for tensor in item.tensors)) for row in range(item.rows)]

    def _images(self, strings: tuple[Strings, ...], info: ModelInfo) -> tuple[bytes | memoryview, ...]:
        for given in strings:
            if given.name not in self._image_inputs:
                wanted = f"encoded images as {info.inputs[0].name!r}" if self._image_inputs else "no BYTES at all"
                raise ItemError(f"input {given.name!r} has datatype BYTES; the model takes {wanted}")
        return strings[0].values if strings else ()


def problem_of(error: RequestError) -> ProblemError:
    """An engine's refusal on the wire."""
    match error:
        case ShedError():
            return ProblemError(503, "shed", str(error), retry_after(error.retry_s))
        case ExpiredError():
            return ProblemError(504, "expired", str(error))
        case RejectedError():
            return ProblemError(422, "rejected-by-model", str(error))
        case FailedError():
            return ProblemError(500, "failed", str(error))
        case _:
            return ProblemError(499, "cancelled", str(error))


def _row(tensor: Tensor, row: int) -> Tensor:
    """One row of a tensor, without copying its data."""
    data = memoryview(tensor.data)
    size = len(data) // tensor.shape[0]
    return Tensor(tensor.name, tensor.datatype, (1, *tensor.shape[1:]), data[row * size : (row + 1) * size])
