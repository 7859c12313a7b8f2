"""One front: the picker, its pods, and what it tells of itself. `run` is its whole life."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp

from sponge_core.errors import SpongeError
from sponge_core.routing.registry import RULES
from sponge_front.endpoint_slices import ApiAccess, EndpointSlices, in_cluster
from sponge_front.envoy_config import picker_socket
from sponge_front.ext_proc import PickerServer
from sponge_front.files import write_endpoints
from sponge_front.load_reader import SILENCE_S, LoadReader, read_token
from sponge_front.metrics import FrontMetrics
from sponge_front.picker import Picker
from sponge_front.picker_tls import picker_credentials
from sponge_front.pods import Pod
from sponge_front.pods_trust import PodsTrust
from sponge_front.proxy import tell
from sponge_front.settings import FrontSettings
from sponge_front.status import StatusServer
from sponge_front.waker import Waker
from sponge_system.logs import event

__all__ = ["Front"]

log = logging.getLogger(__name__)


class Front:
    """A front that has not started."""

    def __init__(self, settings: FrontSettings) -> None:
        self._settings = settings
        self._metrics = FrontMetrics()
        # New with each start: the pods know how far they have received the requests of each front.
        name = secrets.token_hex(8)
        rule = RULES[settings.rule].make(random.random)
        self._picker = Picker(name, rule, clock=time.monotonic, wall_clock=time.time)
        self._metrics.pods.set_function(lambda: len(self._picker.pods))
        self._metrics.reporting.set_function(lambda: self._picker.reporting(SILENCE_S))
        self._metrics.avoided.set_function(self._picker.avoided)
        self._metrics.report_age.set_function(self._picker.oldest_report_s)
        self._readers: dict[Pod, asyncio.Task[None]] = {}
        self._reader: LoadReader | None = None
        self._waker: Waker | None = None
        files = settings.pods_tls
        self._trust = None if files is None else PodsTrust(files, settings.directory)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Raises SpongeError when it cannot start."""
        settings, loop = self._settings, asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        socket = _socket_in(settings.directory)
        if self._trust is not None:
            self._trust.look()
        # No limit: each pod's report is a connection of its own.
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False) as session,
            contextlib.AsyncExitStack() as servers,
        ):
            access = self._prepare(session)
            following = loop.create_task(self._follow(session, access))
            beside = [] if self._trust is None else [loop.create_task(self._trust.follow(), name="trust")]
            try:
                for server in self._servers(socket):
                    await servers.enter_async_context(server)
                await tell(settings.directory, "stay")  # the picker before this one may have told it to leave
                event(log, "front.ready", rule=settings.rule, service=settings.service, socket=str(socket))
                stopping = loop.create_task(self._stop.wait())
                await asyncio.wait((stopping, following), return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    following.result()
                stopping.cancel()
                if settings.drain_s:
                    await tell(settings.directory, "leave")
                    await asyncio.sleep(settings.drain_s)
            finally:
                tasks = [following, *beside, *self._readers.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    def _prepare(self, session: aiohttp.ClientSession) -> ApiAccess | None:
        """Makes what reads loads and asks for pods; returns the access to the API server, None with fixed pods."""
        settings = self._settings
        if settings.token_file is not None:
            read_token(settings.token_file)  # a mistake shows at once
            self._reader = LoadReader(session, settings.token_file, self._picker.reported, self._trust)
        if not settings.service:
            return None
        access = in_cluster()
        if settings.wakes:
            self._waker = Waker(session, access, settings.namespace or access.namespace, settings.service)
        return access

    def _servers(self, socket: Path) -> Iterator[PickerServer | StatusServer]:
        """For the proxy beside the picker, for gateways if they have an address, and for probes."""
        settings, picker, metrics, waker = self._settings, self._picker, self._metrics, self._waker
        yield PickerServer(picker, metrics, f"unix:{socket}", waker)
        if address := settings.picker_address:
            tls = None if settings.picker_tls is None else picker_credentials(settings.picker_tls)
            yield PickerServer(picker, metrics, address, waker, strict=True, credentials=tls)
        yield StatusServer(settings.status_port, metrics)

    async def _follow(self, session: aiohttp.ClientSession, access: ApiAccess | None) -> None:
        settings = self._settings
        if access is None:
            self._keep(settings.pods)
            await self._stop.wait()
            return
        namespace = settings.namespace or access.namespace
        await EndpointSlices(session, access, namespace, settings.service, self._keep).follow()

    def _keep(self, pods: Sequence[Pod]) -> None:
        self._picker.keep(pods)
        write_endpoints(self._settings.directory, pods)
        if self._waker is not None:
            self._waker.keep(pods)
        event(log, "pods.known", pods=len(pods))
        for gone in self._readers.keys() - set(pods):
            self._readers.pop(gone).cancel()
        if self._reader is not None:
            for pod in pods:
                if pod not in self._readers:
                    self._readers[pod] = asyncio.get_running_loop().create_task(self._reader.follow(pod))


def _socket_in(directory: Path) -> Path:
    """The path of the picker's socket, free to listen on. Raises SpongeError."""
    socket = picker_socket(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        socket.unlink(missing_ok=True)
    except OSError as error:
        raise SpongeError(f"cannot use {directory}: {error.strerror}; choose another --directory") from None
    return socket
