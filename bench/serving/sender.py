"""The load generator, a process of its own outside of the server's CPU limit, with real-time priority.

    python -m bench.serving.sender < job.json > answers.json

In an open loop it sends on schedule, independent of the server, and latency counts from the intended send time. In a
closed loop, which serves latency floors and saturation only, it sends the next request when an answer has come.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.serving.outcomes import Answer
from bench.serving.shared import is_right
from bench.serving.systems import SYSTEMS, Knobs, System, Wire
from bench.serving.workloads import WORKLOADS, Served
from sponge_client.schedule import Shot
from sponge_client.wire import Address, ConnectionPool, ResponseReader, precise_loop, prioritize_process

__all__ = ["ClosedLoop", "Job", "run_job"]

CONNECT_AHEAD_S = 0.05
"""Connections open this long before their request is due, so the handshake does not count as latency."""

START_IN_S = 0.2


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`clients` that each wait for their answer, and `think_s` then, for `duration_s` seconds."""

    clients: int
    duration_s: float
    slo_s: float
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """What to send where: `shots` in an open loop, or a closed one.

    Attributes:
        hang_up_s: a client hangs up so long after its deadline.
    """

    workload: str
    system: str
    knobs: Knobs
    port: int
    hang_up_s: float
    shots: tuple[Shot, ...] = ()
    closed: ClosedLoop | None = None

    def as_json(self) -> str:
        return json.dumps({**asdict(self), "shots": [[s.index, s.at_s, s.slo_s, s.body] for s in self.shots]})

    @classmethod
    def parse(cls, text: str) -> Job:
        document: dict[str, Any] = json.loads(text)
        closed = document.pop("closed")
        shots = tuple(Shot(*row) for row in document.pop("shots"))
        return cls(**document, shots=shots, closed=ClosedLoop(**closed) if closed else None)


@dataclass(slots=True)
class _Sent:
    """A request on its way, and what came back."""

    at_s: float
    slo_s: float
    body: int
    lag_s: float = 0.0
    latency_s: float = 0.0
    response: ResponseReader | None = None
    gave_up: bool = False


async def run_job(job: Job, system: System) -> list[Answer]:
    """Sends it all, waits for every outcome, and checks every answer against the reference."""
    sender = _Sender(job, system)
    sent = await (sender.closed_loop(job.closed) if job.closed else sender.open_loop(job.shots))
    expected = system.workload.reference()
    return [
        Answer(
            each.at_s,
            each.slo_s,
            each.lag_s,
            each.latency_s,
            each.response.status if each.response else 0,
            each.response is not None
            and each.response.status == 200
            and _right(system, each.response, expected[each.body]),
            each.gave_up,
        )
        for each in sent
    ]


class _Sender:
    def __init__(self, job: Job, system: System) -> None:
        self._job = job
        self._system = system
        self._address = Address(f"http://127.0.0.1:{job.port}")
        self._pool = ConnectionPool(self._address, keep_body=True)
        self._bodies = system.workload.bodies()
        self._parts: dict[bytes, bytes] = {}  # equal parts of bodies are kept once

    async def open_loop(self, shots: Sequence[Shot]) -> list[_Sent]:
        loop = asyncio.get_running_loop()
        requests = [self._encode(shot.body, shot.slo_s) for shot in shots]
        gc.collect()
        gc.freeze()
        zero = loop.time() + START_IN_S
        tasks = []
        sent = [_Sent(shot.at_s, shot.slo_s, shot.body) for shot in shots]
        for each, request in zip(sent, requests, strict=True):
            await _sleep_until(loop, zero + each.at_s - CONNECT_AHEAD_S)
            tasks.append(loop.create_task(self._exchange(each, request, zero + each.at_s)))
        await asyncio.gather(*tasks)
        self._pool.close()
        return sent

    async def closed_loop(self, closed: ClosedLoop) -> list[_Sent]:
        loop = asyncio.get_running_loop()
        requests = [self._encode(body, closed.slo_s) for body in range(len(self._bodies))]
        sent: list[_Sent] = []
        zero = loop.time()

        async def client(number: int) -> None:
            while loop.time() - zero < closed.duration_s:
                body = (number + len(sent)) % len(requests)
                each = _Sent(loop.time() - zero, closed.slo_s, body)
                sent.append(each)
                await self._exchange(each, requests[body], zero + each.at_s)
                if each.response is None or each.response.status != 200:
                    await asyncio.sleep(0.01)  # a refusal costs next to nothing: do not fill the run with them
                await asyncio.sleep(closed.think_s)

        await asyncio.gather(*(client(number) for number in range(closed.clients)))
        self._pool.close()
        return sent

    async def _exchange(self, each: _Sent, request: list[bytes], due: float) -> None:
        """One request from its connection to its outcome; never raises."""
        loop = asyncio.get_running_loop()
        connection = None
        try:
            async with asyncio.timeout_at(due + each.slo_s + self._job.hang_up_s):
                connection = await self._pool.take()
                await _sleep_until(loop, due)
                answer = connection.begin(self._stamped(request[0], loop.time() - due))
                each.lag_s = loop.time() - due
                for part in request[1:]:
                    connection.write(part)
                each.response = await answer
        except TimeoutError:
            each.gave_up = True
        except OSError:
            pass  # no response: an error
        each.latency_s = loop.time() - due
        if connection is not None:
            self._pool.give_back(connection, each.response is not None and each.response.keep_alive)

    def _stamped(self, head: bytes, late_s: float) -> bytes:
        """With the time when it was due to be sent, for a system that asks for it."""
        name = self._system.sent_at
        return head if name is None else head[:-2] + f"{name}: {time.time() - late_s:.6f}\r\n\r\n".encode()

    def _encode(self, body: int, slo_s: float) -> list[bytes]:
        """A request as it is written: the headers, then the parts of the body."""
        wire = self._system.request(self._bodies[body], slo_s, self._job.knobs)
        parts = [self._parts.setdefault(part, part) for part in wire.body]
        return [_head(wire, self._address.host_header), *parts]


def _head(wire: Wire, host: str) -> bytes:
    headers = {**wire.headers, "Host": host, "Content-Length": str(sum(map(len, wire.body)))}
    lines = [f"{wire.method} {wire.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _right(system: System, response: ResponseReader, expected: Any) -> bool:
    try:
        return is_right(system.outputs(response.headers, bytes(response.body)), expected)
    except ValueError:
        return False


async def _sleep_until(loop: asyncio.AbstractEventLoop, when: float) -> None:
    remaining = when - loop.time()
    if remaining > 0:
        await asyncio.sleep(remaining)


def main() -> None:
    """Reads a job, writes one row an answer."""
    job = Job.parse(sys.stdin.read())
    prioritize_process()
    system = SYSTEMS[job.workload][job.system](Served(WORKLOADS[job.workload]))
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        answers = runner.run(run_job(job, system))
    json.dump([answer.as_dict() for answer in answers], sys.stdout)


if __name__ == "__main__":
    main()
