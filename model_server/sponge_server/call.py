"""One inference request, as the adapter of its protocol reads and answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol, TypeVar

from sponge_server.bounds import Bounds
from sponge_server.clients import Peer
from sponge_server.memory_account import Lease
from sponge_server.protocol.oip import InferRequest
from sponge_server.workers.interface import Tensor

__all__ = ["Call", "ClientLeftError"]

R_co = TypeVar("R_co", covariant=True)


class ClientLeftError(Exception):
    """The client disconnected before the body was complete."""


class Call(Protocol[R_co]):
    """The inference service calls the methods in order.

    Attributes:
        text_kind: what the protocol calls numbers that are parsed one by one.
        in_pieces: the body arrives in pieces; else it arrives whole, and its protocol limits its size. One that is
            compressed comes in pieces then.
        headers: lower-case names.
        model, version: as addressed. A model of None: the body names it.
        timeout_s: time limit of the call in the protocol itself, in seconds; None where there is none.
        peer: the other end of the connection.
        lease: the memory that the request holds; its adapter closes it once the answer is sent.
        long_answer_bytes: an answer of more bytes is encoded by another thread.
    """

    text_kind: ClassVar[str]
    in_pieces: ClassVar[bool]

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    @property
    def model(self) -> str | None: ...

    @property
    def version(self) -> str | None: ...

    @property
    def timeout_s(self) -> float | None: ...

    @property
    def peer(self) -> Peer: ...

    @property
    def lease(self) -> Lease: ...

    @property
    def long_answer_bytes(self) -> int: ...

    def body_length(self) -> int | None:
        """Checks the protocol's headers; the announced length of the body. Raises ProblemError."""
        ...

    async def receive(self) -> tuple[bytes, int, bool]:
        """The next piece of the body, the bytes that came for it, and whether more follow.

        Raises ClientLeftError, ProblemError.
        """
        ...

    def parse(self, body: bytes | bytearray, bounds: Bounds) -> int:
        """Takes the whole body and sets `model`; the size of its text in bytes. Raises ProblemError."""
        ...

    def decode(self, bounds: Bounds) -> InferRequest:
        """The request; runs in another thread if its text is long. Raises OipError."""
        ...

    def watch(self, on_left: Callable[[], None]) -> Callable[[], object]:
        """Calls `on_left` when the client disconnects, until the returned function is called."""
        ...

    def encode(
        self,
        model: str,
        version: str,
        request: InferRequest,
        outputs: Sequence[Tensor],
        labels: Sequence[str] | None,
        answered_by: tuple[str, float] | None,
    ) -> R_co:
        """The response. Raises OipError when an output is requested that the model does not have.

        Args:
            answered_by: name and accuracy of the variant; None: the model has none.
        """
        ...
