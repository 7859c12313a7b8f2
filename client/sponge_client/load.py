"""The open-loop load generator: sends a schedule on time, whatever the server does, and records every request.

Each request is an upload of its own at the replayed bandwidth, as from a separate phone: first the headers, then the
body at the speed of the link at that moment. Latency counts from the time when the request was *due* to be sent.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sponge_client.access import key_headers
from sponge_client.client import SpongeClient, deadline_headers
from sponge_client.errors import InferenceError
from sponge_client.oip import InferBody
from sponge_client.outcomes import RequestRecord, outcome_of
from sponge_client.payloads import image_bodies, tensor_bodies
from sponge_client.schedule import Schedule, Shot, make_schedule
from sponge_client.wire import Address, Connection, ConnectionPool, ResponseReader
from sponge_core.control_api import Outcome
from sponge_workload.bandwidth import BandwidthTrace

__all__ = ["LoadRun", "LoadSpec", "prepare"]

PROBE_SLO_S = 20.0
REFUSED_AS_UNFIT = (400, 415, 422)

CONNECT_AHEAD_S = 0.05
"""A connection opens this long before its request is due: the handshake is not part of the server's latency."""

CHUNK_BYTES = 16 * 1024
"""Unit of a paced upload: 5 ms at the median of the 4G trace."""


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """A load to send.

    Attributes:
        url: address of the server's data port.
        arrivals: ascending seconds after the start.
        model: the model's name on the server.
        duration_s: length of the sending.
        slo_s: seconds from the time when a request is due to be sent to its deadline.
        bandwidth: the uplink, from the start of the run; None sends every body at once.
        payload_bytes: size of each body; None: the size that the model's requests have.
        seed: chooses the bodies.
        timeout_s: seconds after its deadline when a request is given up and counts as cancelled.
        tls: which certificates to trust at an https URL; None: those of this machine's authorities.
        api_key: for a server that asks for one.
    """

    url: str
    model: str
    arrivals: Sequence[float]
    duration_s: float
    slo_s: float
    bandwidth: BandwidthTrace | None = None
    payload_bytes: int | None = None
    seed: int = 1
    timeout_s: float = 10.0
    tls: ssl.SSLContext | None = None
    api_key: str | None = field(default=None, repr=False)


async def prepare(spec: LoadSpec, on_record: Callable[[RequestRecord], None] = lambda _: None) -> LoadRun:
    """Prepares a run: the schedule, and bodies that the server accepts, as a probe showed.

    Raises:
        UnreachableError: no server at the URL.
        ServerError: the server has no such model, or refuses the probes.
        LoadError: the URL or the payload size is invalid.
    """
    Address(spec.url, spec.tls)
    async with SpongeClient(spec.url, spec.tls, spec.api_key) as client:
        bodies = await _accepted_bodies(client, spec)
    schedule = make_schedule(spec.arrivals, spec.duration_s, spec.slo_s, len(bodies), spec.seed)
    return LoadRun(
        spec.url,
        spec.model,
        schedule,
        bodies,
        spec.bandwidth,
        spec.timeout_s,
        on_record,
        tls=spec.tls,
        api_key=spec.api_key,
    )


async def _accepted_bodies(client: SpongeClient, spec: LoadSpec) -> list[InferBody]:
    """Photographs if the server accepts them, else tensors. A probe decides, as the metadata cannot tell."""
    metadata = await client.metadata(spec.model)
    if metadata.image_like:
        bodies = image_bodies(metadata, spec.payload_bytes)
        try:
            await client.infer_body(spec.model, bodies[0], PROBE_SLO_S)
        except InferenceError as refused:
            if refused.status not in REFUSED_AS_UNFIT:
                raise
        else:
            return bodies
    bodies = tensor_bodies(metadata, spec.payload_bytes, spec.seed)
    await client.infer_body(spec.model, bodies[0], PROBE_SLO_S)
    return bodies


class LoadRun:
    """One run of a schedule against one model.

    Args:
        url: address of the server's data port.
        bodies: the bodies that `Shot.body` indexes.
        bandwidth: as in LoadSpec.
        timeout_s: as in LoadSpec.
        on_record: called with each request's record as soon as its outcome is known.
        tls, api_key: as in LoadSpec.
        reuse: use a connection for several requests, one after the other. Without it each request has its own, so that
            a Kubernetes Service deals out every single one.

    Raises:
        LoadError: the URL is invalid.
    """

    def __init__(
        self,
        url: str,
        model: str,
        schedule: Schedule,
        bodies: Sequence[InferBody],
        bandwidth: BandwidthTrace | None = None,
        timeout_s: float = 10.0,
        on_record: Callable[[RequestRecord], None] = lambda _: None,
        *,
        tls: ssl.SSLContext | None = None,
        api_key: str | None = None,
        reuse: bool = True,
    ) -> None:
        address = Address(url, tls)
        self._pool = ConnectionPool(address)
        self._schedule = schedule
        self._bodies = [memoryview(body.data) for body in bodies]
        self._header_lengths = [body.header_length for body in bodies]
        self._heads = [_head(address, model, body, key_headers(api_key)) for body in bodies]
        self._bandwidth = bandwidth
        self._timeout_s = timeout_s
        self._on_record = on_record
        self._reuse = reuse
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._zero = 0.0  # loop time of the start
        self.records: list[RequestRecord] = []
        self.counts: Counter[Outcome] = Counter()
        self.started_at = 0.0  # epoch seconds
        self.duration_s = 0.0  # of the sending; shorter than the schedule's if stopped

    def stop(self) -> None:
        """Stops the sending; `run` still waits for the answers."""
        self._stop.set()

    def abandon(self) -> None:
        """Stops, and gives up the requests without an answer: they count as cancelled."""
        self.stop()
        for task in self._tasks:
            task.cancel()

    async def run(self) -> None:
        """Sends the schedule until its end or `stop`, and waits until every request has an outcome."""
        loop = asyncio.get_running_loop()
        # A full collection walks every object for tens of milliseconds. Objects that exist now stay anyway.
        gc.collect()
        gc.freeze()
        self._zero = loop.time() + 2 * CONNECT_AHEAD_S
        self.started_at = time.time() + 2 * CONNECT_AHEAD_S
        try:
            for shot in self._schedule.shots:
                if not await self._wait_until(self._zero + shot.at_s - CONNECT_AHEAD_S):
                    break
                task = loop.create_task(self._send(shot))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await self._wait_until(self._zero + self._schedule.duration_s)
            self.duration_s = min(self._schedule.duration_s, max(loop.time() - self._zero, 1e-3))
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self.abandon()
            self._pool.close()
            gc.unfreeze()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    @property
    def open(self) -> int:
        """Number of requests that are about to be sent or have no outcome yet."""
        return len(self._tasks)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the schedule; call it on the event loop of the run."""
        return asyncio.get_running_loop().time() - self._zero

    async def _wait_until(self, when: float) -> bool:
        """Sleeps until this loop time; returns False as soon as the run is stopped."""
        if when > asyncio.get_running_loop().time():
            try:
                async with asyncio.timeout_at(when):
                    await self._stop.wait()
            except TimeoutError:
                return True
        return not self._stop.is_set()

    async def _send(self, shot: Shot) -> None:
        """Sends one request and records its outcome; never raises."""
        loop = asyncio.get_running_loop()
        due = self._zero + shot.at_s
        connection: Connection | None = None
        response: ResponseReader | None = None
        outcome: Outcome = "error"
        sent_whole = False
        lag_s = 0.0
        try:
            async with asyncio.timeout_at(due + shot.slo_s + self._timeout_s):
                connection = await self._pool.take()
                first_bytes = self._first_bytes(shot)
                await _sleep_until(loop, due)
                answer = connection.begin(first_bytes)
                lag_s = loop.time() - due
                await asyncio.sleep(0)  # let the rest of a burst begin too
                sent_whole = await self._upload(connection, answer, shot, due)
                response = await answer
                outcome = outcome_of(response.status, loop.time() - due, shot.slo_s)
        except TimeoutError:
            outcome = "cancelled"
        except asyncio.CancelledError:
            outcome = "cancelled"
            if loop.time() < due:
                return  # stopped before this request was sent
        except OSError:
            outcome = "error"
        finally:
            if connection is not None:
                reusable = self._reuse and sent_whole and response is not None and response.keep_alive
                self._pool.give_back(connection, reusable)
        self._record(shot, outcome, lag_s, loop.time() - due, response)

    def _first_bytes(self, shot: Shot) -> bytes:
        """Request line, headers and the JSON part of the body; the whole body if no bandwidth is replayed."""
        deadline = deadline_headers(self.started_at + shot.at_s, shot.slo_s)
        lines = "".join(f"{name}: {value}\r\n" for name, value in deadline.items())
        body = self._bodies[shot.body]
        now = body if self._bandwidth is None else body[: self._header_lengths[shot.body]]
        return b"".join([self._heads[shot.body], lines.encode(), b"\r\n", now])

    async def _upload(
        self, connection: Connection, answer: asyncio.Future[ResponseReader], shot: Shot, due: float
    ) -> bool:
        """Sends the rest of the body at the pace of the link; returns False if the answer came before its end."""
        if self._bandwidth is None:
            return True
        loop = asyncio.get_running_loop()
        body = self._bodies[shot.body]
        done = self._header_lengths[shot.body]
        while done < len(body):
            upto = min(done + CHUNK_BYTES, len(body))
            remaining = due + self._bandwidth.upload_s(shot.at_s, upto) - loop.time()
            if remaining > 0:
                await asyncio.wait((answer,), timeout=remaining)
            if answer.done():
                return False
            connection.write(body[done:upto])
            done = upto
        return True

    def _record(
        self, shot: Shot, outcome: Outcome, lag_s: float, latency_s: float, response: ResponseReader | None
    ) -> None:
        size = len(self._bodies[shot.body])
        record = RequestRecord(
            index=shot.index,
            at_s=shot.at_s,
            lag_s=lag_s,
            payload_bytes=size,
            upload_s=self._bandwidth.upload_s(shot.at_s, size) if self._bandwidth else 0.0,
            slo_s=shot.slo_s,
            outcome=outcome,
            status=response.status if response else 0,
            latency_s=latency_s,
            server_timing=response.headers.get("server-timing", "") if response else "",
        )
        self.records.append(record)
        self.counts[outcome] += 1
        self._on_record(record)


def _head(address: Address, model: str, body: InferBody, key: Mapping[str, str]) -> bytes:
    lines = [
        f"POST {address.path}/v2/models/{model}/infer HTTP/1.1",
        f"Host: {address.host_header}",
        *(f"{name}: {value}" for name, value in (*body.headers.items(), *key.items())),
    ]
    return ("\r\n".join(lines) + "\r\n").encode()


async def _sleep_until(loop: asyncio.AbstractEventLoop, when: float) -> None:
    remaining = when - loop.time()
    if remaining > 0:
        await asyncio.sleep(remaining)
