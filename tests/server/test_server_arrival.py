"""A request whose body names its model: all clocks are read once, when its headers are in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
from engine_world import MODEL, World, item
from virtual_time import VirtualLoop, run_virtual

from sponge_core.client_clock import ENOUGH
from sponge_core.deadlines import SloPolicy
from sponge_server.bounds import Bounds
from sponge_server.clients import Clients, Peer
from sponge_server.fronts import FrontNumbers
from sponge_server.inference_service import InferenceService
from sponge_server.lifecycle import Lifecycle
from sponge_server.memory_account import Account, Lease
from sponge_server.observability.model_counts import ModelCounts
from sponge_server.protocol.oip import InferRequest
from sponge_server.protocol.problems import ProblemError
from sponge_server.results import Timing
from sponge_server.uploads import Uploads
from sponge_server.workers.interface import Tensor

WALL = 1_700_000_000.0
"""Epoch seconds at the start of virtual time."""

LIMITS_S = (5.0, 1.0)
"""Default limits of the two models; the first stands in until the body names the second."""


class UnnamedCall:
    """A call whose message names the second model."""

    text_kind: ClassVar[str] = "text"
    in_pieces: ClassVar[bool] = False
    long_answer_bytes: ClassVar[int] = 1 << 20
    version: str | None = None
    timeout_s: float | None = None
    peer = Peer("10.0.0.1", "10.0.0.1:40000")

    def __init__(self, loop: VirtualLoop, lease: Lease, headers: Mapping[bytes, bytes], upload_s: float) -> None:
        self.lease = lease
        self.headers = headers
        self.model: str | None = None
        self._message = loop.create_future()
        loop.call_later(upload_s, self._message.set_result, b"message")

    def body_length(self) -> None:
        return None

    async def receive(self) -> tuple[bytes, int, bool]:
        message = await self._message
        return message, len(message), False

    def parse(self, body: bytes | bytearray, bounds: Bounds) -> int:
        self.model = "fake1"
        return len(body)

    def decode(self, bounds: Bounds) -> InferRequest:
        return InferRequest(tensors=item().tensors)

    def watch(self, on_left: Callable[[], None]) -> Callable[[], object]:
        return lambda: None

    def encode(
        self,
        model: str,
        version: str,
        request: InferRequest,
        outputs: Sequence[Tensor],
        labels: Sequence[str] | None,
        answered_by: tuple[str, float] | None,
    ) -> str:
        return model


class Served:
    """An inference service of two models."""

    def __init__(self, loop: VirtualLoop) -> None:
        world = World(loop, profiles=(MODEL, MODEL))
        self.loop = loop
        self.metrics = world.metrics
        self._account = Account(1 << 40)
        self._service = InferenceService(
            [
                replace(handle, policy=SloPolicy(limit_s))
                for handle, limit_s in zip(world.models, LIMITS_S, strict=True)
            ],
            Clients(),
            world.engine,
            Lifecycle(["fake", "fake1"], "ready"),
            Uploads(),
            self._account,
            world.metrics,
            [ModelCounts() for _ in LIMITS_S],
            FrontNumbers(),
            clock=loop.time,
            wall_clock=lambda: WALL + loop.time(),
        )

    async def ask(self, age_s: float, upload_s: float = 0.05, **headers: str) -> Timing:
        """A request that claims to be `age_s` old when its headers are in."""
        given = {"x-sponge-sent-at": f"{WALL + self.loop.time() - age_s:.6f}"} | headers
        encoded = {name.replace("_", "-").encode(): value.encode() for name, value in given.items()}
        with self._account.open() as lease:
            model, timing = await self._service.infer(UnnamedCall(self.loop, lease, encoded, upload_s))
        assert model == "fake1"
        return timing

    def counted(self) -> tuple[float, float, float]:
        """Send times that were corrected, and those ignored as of the future and as stale."""

        def value(name: str, **labels: str) -> float:
            return self.metrics.registry.get_sample_value(name, labels) or 0.0

        ignored = "sponge_sent_at_ignored_total"
        return (
            value("sponge_sent_at_corrected_total"),
            value(ignored, reason="future"),
            value(ignored, reason="stale"),
        )


def test_the_time_of_the_upload_is_charged_once() -> None:
    async def scenario(loop: VirtualLoop) -> Timing:
        return await Served(loop).ask(0.1, upload_s=0.3)

    assert run_virtual(scenario).network_s == pytest.approx(0.4)


def test_a_clock_learns_once_from_each_request() -> None:
    async def scenario(loop: VirtualLoop) -> list[float]:
        served = Served(loop)
        return [(await served.ask(0.6, x_sponge_slo_ms="1000")).network_s for _ in range(ENOUGH + 1)]

    trusted, corrected = 0.65, 0.05
    assert run_virtual(scenario) == pytest.approx([trusted] * (ENOUGH - 1) + [corrected] * 2, abs=1e-5)


@pytest.mark.parametrize(
    ("age_s", "counted"), [(-5.0, (0, 1, 0)), (0.1, (0, 0, 0)), (5.0, (1, 0, 0)), (90_000.0, (0, 0, 1))]
)
def test_a_send_time_is_counted_once(age_s: float, counted: tuple[int, int, int]) -> None:
    async def scenario(loop: VirtualLoop) -> tuple[float, float, float]:
        served = Served(loop)
        await served.ask(age_s)
        return served.counted()

    assert run_virtual(scenario) == counted


def test_a_clock_that_is_off_by_the_models_own_time_limit_is_counted() -> None:
    """0.7 of 1 s for each request is a clock that is off; of the 5 s of the stand-in it might be a slow way."""

    async def scenario(loop: VirtualLoop) -> tuple[float, float, float]:
        served = Served(loop)
        for _ in range(ENOUGH):
            await served.ask(0.7)
        return served.counted()

    assert run_virtual(scenario) == (1, 0, 0)


def test_an_invalid_send_time_is_refused() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        await Served(loop).ask(0.0, x_sponge_sent_at="yesterday")

    with pytest.raises(ProblemError, match="x-sponge-sent-at is 'yesterday'"):
        run_virtual(scenario)
