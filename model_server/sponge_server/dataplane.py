"""From a decoded protocol request to rows in the engine, and from its answer or error back.

What every protocol shares: which model is meant, whether its tensors fit it, and which problem an error is on the wire.
Knows the Open Inference Protocol's data, nothing of HTTP's mechanics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TypeVar

from sponge_server.deadlines import Due
from sponge_server.engine.engine import Engine, Job
from sponge_server.lifecycle import Status
from sponge_server.model_handle import ServedModel
from sponge_server.protocol.oip import InferRequest, OipError, Strings
from sponge_server.protocol.problems import ProblemError, retry_after
from sponge_server.results import Answer, ExpiredError, FailedError, RejectedError, RequestError, ShedError
from sponge_server.workers.interface import Item, ItemError, ModelInfo, Tensor

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
"""A server runs one version of each model; the protocol wants it named."""

Encoder = Callable[[str, str, InferRequest, Sequence[Tensor], Sequence[str] | None], T]
"""Writes the response of a model and version: what was asked, what the model gave, and the names of its classes."""


class DataPlane:
    """The models of one server as the protocols see them; their names are known before they are loaded."""

    def __init__(self, names: Sequence[str], status: Status) -> None:
        self._names = tuple(names)
        self._status = status
        self._models: dict[str, ServedModel] = {}
        self._engine: Engine | None = None

    def attach(self, models: Sequence[ServedModel], engine: Engine) -> None:
        """The models are loaded."""
        self._models = {model.name: model for model in models}
        self._engine = engine

    @property
    def engine(self) -> Engine:
        """Raises ProblemError 503 before the models are loaded."""
        if self._engine is None:
            raise self._not_ready()
        return self._engine

    @property
    def ready(self) -> bool:
        """Requests should be sent here."""
        return self._status.ready

    def check_ready(self) -> None:
        """Raises ProblemError 503 while no requests should be sent here, though some may still be taken."""
        if not self.ready:
            raise self._not_ready()

    def check_accepting(self) -> None:
        """Raises ProblemError 503 while requests are not taken."""
        if not self._status.accepting:
            raise self._not_ready()

    def check_model(self, name: str, version: str | None) -> None:
        """Raises ProblemError 404 when this server does not have that model and version."""
        if name not in self._names:
            known = ", ".join(map(repr, self._names))
            raise ProblemError(404, "unknown-model", f"no model {name!r} here; this server has {known}")
        if version is not None and version != MODEL_VERSION:
            raise ProblemError(404, "unknown-version", f"{name!r} has version {MODEL_VERSION!r} only")

    def described(self, name: str, version: str | None = None) -> ServedModel:
        """The model of that name, to be looked at. Raises ProblemError: 404 when there is none, 503 until loaded."""
        self.check_model(name, version)
        if not self._models:
            raise self._not_ready()
        return self._models[name]

    def serving(self, name: str, version: str | None = None) -> ServedModel:
        """The model of that name, to be used. Raises ProblemError: 404 when there is none, 503 while none is taken."""
        model = self.described(name, version)
        self.check_accepting()
        return model

    def stand_in(self) -> ServedModel:
        """The model with the longest default objective: it stands for the one that a request has yet to name.

        So nothing is given up early that its own model would have had time for. Raises ProblemError 503 while requests
        are not taken.
        """
        self.check_accepting()
        return max(self._models.values(), key=lambda model: model.policy.default_s)

    def submit(self, model: ServedModel, request: InferRequest, due: Due) -> Job:
        """Queues a request. Raises ProblemError when it does not fit the model."""
        # A request whose body was still coming when the server began to drain was accepted before: it is served.
        try:
            rows = _rows(request, model.info)
        except ItemError as error:
            raise ProblemError(422, "does-not-fit-model", str(error)) from None
        try:
            return self.engine.submit(model, rows, due)
        except ShedError as error:
            raise problem_of(error) from None

    def encode(self, model: ServedModel, request: InferRequest, answer: Answer, encoder: Encoder[T]) -> T:
        """The response, as the protocol's encoder writes it."""
        try:
            return encoder(model.name, MODEL_VERSION, request, answer.outputs, model.info.labels)
        except OipError as error:
            raise ProblemError(400, "unknown-output", str(error)) from None

    def _not_ready(self) -> ProblemError:
        slug = "draining" if self._status.ending else "not-ready"
        return ProblemError(503, slug, f"not ready: {self._status.text}", retry_after(0))


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


def _rows(request: InferRequest, info: ModelInfo) -> list[Item]:
    """The request as single rows. Raises ItemError when it does not fit the model."""
    if request.outputs:
        unknown = {ask.name for ask in request.outputs} - {spec.name for spec in info.outputs}
        if unknown:
            names = ", ".join(spec.name for spec in info.outputs)
            raise ItemError(f"the model has no output {', '.join(sorted(unknown))}; it has {names}")
    item = Item(request.tensors, _images(request.strings, info) if request.strings else ())
    if not item.images and not item.tensors:
        raise ItemError("the request has no rows: give at least one image")
    info.check(item)
    if item.rows == 1:
        return [item]
    if item.images:
        return [Item(images=(image,)) for image in item.images]
    return [Item(tuple(_row(tensor, row) for tensor in item.tensors)) for row in range(item.rows)]


def _images(strings: tuple[Strings, ...], info: ModelInfo) -> tuple[bytes | memoryview, ...]:
    image_inputs = (info.inputs[0].name, "image") if info.accepts_images else ()
    for given in strings:
        if given.name not in image_inputs:
            wanted = f"encoded images as {info.inputs[0].name!r}" if image_inputs else "no BYTES at all"
            raise ItemError(f"input {given.name!r} has datatype BYTES; the model takes {wanted}")
    return strings[0].values


def _row(tensor: Tensor, row: int) -> Tensor:
    """One row of a tensor, without copying its data."""
    data = memoryview(tensor.data)
    size = len(data) // tensor.shape[0]
    return Tensor(tensor.name, tensor.datatype, (1, *tensor.shape[1:]), data[row * size : (row + 1) * size])
