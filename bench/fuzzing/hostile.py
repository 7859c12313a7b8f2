"""Hostile clients in a process of their own: many connections of mixed kinds that keep a server busy.

Half of the connections send malformed requests one after the other, which `HostileClients` paces together. The others
hold a place as long as the server lets them, and cost it almost no computation:

- headers or a body that arrive a byte at a time,
- a connection without a request,
- requests sent ahead whose answers nobody reads,
- requests whose client leaves at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import random
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from types import TracebackType

import grpc
import uvloop

from bench.fuzzing.amplified import amplified
from bench.fuzzing.exchange import Addresses, describe, exchange, raw_method
from bench.fuzzing.http import Target, good_request, malformed_request
from bench.fuzzing.rpc import Call, malformed_call

__all__ = ["HostileClients"]

PATIENCE_S = 10.0
TRICKLE_S = 0.5
MADE = 1000
"""Requests that are made before the start, 140 MB: to make one takes more CPU than to refuse it."""
HELD_S = 20.0


class HostileClients:
    """A context manager: the clients run inside its `with` block.

    Args:
        connections: how many stay open side by side.
        rate: malformed requests per second of all together; None: as many as they can.
        seed: of what they send.

    Attributes, known after the context has ended:
        sent: malformed requests that were answered or refused, and connections of the other kinds.
    """

    def __init__(self, addresses: Addresses, connections: int, rate: float | None, seed: int) -> None:
        self.sent = 0
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(addresses, connections, rate, seed, theirs), daemon=True)

    def __enter__(self) -> HostileClients:
        self._process.start()
        self._ours.recv()  # they have started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.send(None)
        self.sent = self._ours.recv()
        self._process.join()


def _run(addresses: Addresses, connections: int, rate: float | None, seed: int, parent: Connection) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_attack(addresses, connections, rate, seed, parent))


async def _attack(addresses: Addresses, connections: int, rate: float | None, seed: int, parent: Connection) -> None:
    target = await asyncio.to_thread(describe, addresses)
    rng, sent = random.Random(seed), itertools.count()
    kinds = (malformed_request, malformed_request, malformed_call, amplified, amplified)
    ready = [rng.choice(kinds)(rng, target) for _ in range(MADE)]
    async with grpc.aio.insecure_channel(addresses.grpc) as channel:

        async def malformed() -> None:
            made = rng.choice(ready)
            if isinstance(made, Call):
                await raw_method(channel, made.method)(made.message, metadata=made.metadata, timeout=made.timeout_s)
            else:
                await exchange(addresses.http, made)

        async def client(act: Callable[[], Awaitable[None]], pause_s: float) -> None:
            await asyncio.sleep(pause_s * rng.random())
            while True:
                # What the server does with them is its own business, as long as it serves the others.
                with contextlib.suppress(OSError, EOFError, grpc.RpcError):
                    async with asyncio.timeout(PATIENCE_S + HELD_S):
                        await act()
                next(sent)
                await asyncio.sleep(rng.expovariate(1 / pause_s) if pause_s else 0.0)

        senders = max(1, connections // 2)
        holders = [_holder(kind, addresses.http, rng, target) for kind in HOLDERS]
        parent.send(None)
        tasks = [asyncio.create_task(client(malformed, senders / rate if rate else 0.0)) for _ in range(senders)]
        tasks += [
            asyncio.create_task(client(act, TRICKLE_S))
            for act in itertools.islice(itertools.cycle(holders), connections - senders)
        ]
        await asyncio.to_thread(parent.recv)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        parent.send(next(sent))


Hold = Callable[[asyncio.StreamReader, asyncio.StreamWriter, random.Random, Target], Awaitable[None]]


def _holder(hold: Hold, address: str, rng: random.Random, target: Target) -> Callable[[], Awaitable[None]]:
    async def act() -> None:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 10)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HELD_S):
                    await hold(reader, writer, rng, target)
        finally:
            writer.transport.abort()

    return act


async def _slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random, target: Target) -> None:
    request = good_request(target)
    begun = rng.choice((1, len(request) - 40))  # within the headers, or within the body
    writer.write(request[:begun])
    for byte in request[begun:]:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(TRICKLE_S)
    await reader.read(1)


async def _silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter, __: random.Random, ___: Target) -> None:
    await reader.read(1)


async def _deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random, target: Target) -> None:
    ahead = b"GET /v2/models/digits HTTP/1.1\r\nhost: x\r\n\r\n" * rng.choice((1, 20))
    writer.write(ahead + good_request(target))
    await asyncio.sleep(HELD_S)


async def _leaving(_: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random, target: Target) -> None:
    writer.write(good_request(target))
    await writer.drain()
    await asyncio.sleep(rng.choice((0.0, 0.005)))


HOLDERS: tuple[Hold, ...] = (_slow, _silent, _deaf, _leaving)
