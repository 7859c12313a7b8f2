"""Fork server: loads every model once, on one thread, and forks a lane from itself on request.

A fork copies only the calling thread. If this process ever had a team of OpenMP threads, its children would wait for
threads that do not exist, and their first parallel loop would hang. So it runs one thread, checked after each model,
and batches run in the lanes only. Lanes share the weights copy-on-write, and each can run every model.

The pool starts it as `python -m sponge_server.workers.fork_server FD` and holds the other end of FD. When that end
closes, the fork server ends, and its lanes with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import select
import signal
import socket
import sys
import threading
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sponge_core.errors import SpongeError
from sponge_server.models.user_code import said
from sponge_server.workers.allocator import give_back
from sponge_server.workers.family import go_on, own_children
from sponge_server.workers.forked_call import end_process, fork_leader, how_it_ended, kill_group
from sponge_server.workers.interface import ModelError, ModelInfo
from sponge_server.workers.ipc import SharedMemory, receive, send
from sponge_server.workers.probe import probe
from sponge_server.workers.row_size import RowSizeError
from sponge_system.cgroup import own_cgroup, read_memory_left
from sponge_system.memory_growth import RESERVE_BYTES, limit_growth
from sponge_system.oom_score import FORK_SERVER, LOADING, raise_oom_score

__all__ = ["ENVIRONMENT", "main"]

ENVIRONMENT = {
    # A waiting OpenMP thread must sleep: under a CPU quota, spinning uses CPU that others need.
    "OMP_WAIT_POLICY": "passive",
    # Teams are formed by set_num_threads in the lanes. numpy's BLAS would start threads at import, before the fork.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # By default glibc returns every large activation to the kernel and faults it in again: 6,000 page faults and about
    # 15 % of the time of a ResNet-18 batch of 4. Keep the memory, because the next batch needs it.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
    # Output of a model is logged at once, and is in no buffer that a fork would copy.
    "PYTHONUNBUFFERED": "1",
}
"""Environment variables to set before the interpreter starts."""

NICENESS = 10
"""Lanes yield to the server process: beside two computing lanes, a refusal took 4 ms at the 90th percentile without
this and `sponge_system.os_scheduling`, and 1 ms with both. Inside one cgroup, the lanes lose only the CPU that the
server needs."""

BESIDE_NICENESS = 19
"""Of a pool that starts beside one that serves, and of its lanes later: a process cannot become less nice again."""

WHILE_LOADING = (100_000, 50, 100)
"""Thresholds of the garbage collector. Imports and models make two million objects that stay; at the usual thresholds
they are looked through again and again, a fifth of the CPU time of a start."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FORK_FDS = 3


def main(fd: int) -> None:
    """Serves the other end of the socket `fd` until it closes."""
    control = socket.socket(fileno=fd)
    control.set_inheritable(False)
    # What the models of ended lanes have forked is reaped here, rather than by the first process of a container.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    first = receive(control)
    if first is None:
        return
    if first[0]["beside"]:
        os.nice(BESIDE_NICENESS)
    raise_oom_score(FORK_SERVER + (LOADING if first[0]["guarded"] else 0))
    models: list[Any] = []
    usual = gc.get_threshold()
    gc.set_threshold(*WHILE_LOADING)
    for spec in first[0]["load"]:
        try:
            if not models:
                _prepare_torch()
                if first[0]["guarded"]:
                    # A first start has all that there is: without it, nothing is served.
                    _limit_growth(RESERVE_BYTES if first[0]["beside"] else 0)
            model, info = _load(**spec, example_s=first[0]["example_s"])
        except SpongeError as error:
            send(control, {"failed": str(error)})
            return
        except Exception as error:  # noqa: BLE001 - a model source may raise anything; the server reports it
            traceback.print_exc()
            send(control, {"failed": f"it cannot be loaded: {said(error)}"})
            return
        send(control, {"loaded": asdict(info)})
        models.append(model)
    # Only now: until then there is no lane, and a server that refuses everything meanwhile is to be short.
    if not first[0]["beside"]:
        os.nice(NICENESS)
    gc.set_threshold(*usual)
    gc.collect(0)  # what the newest objects have left behind; a full collection takes 0.4 s
    give_back()  # free pages would be shared with the lanes and copied when one of them writes
    gc.freeze()  # a collection in a lane would write to, and so copy, every page with an object
    _ForkServer(control, models).serve()


def _limit_growth(reserve_bytes: int) -> None:
    cgroup = own_cgroup("memory")
    left = None if cgroup is None else read_memory_left(cgroup)
    if left is not None:
        limit_growth(os.getpid(), left - reserve_bytes)


def _prepare_torch() -> None:
    import torch

    # Must precede any work. One inter-op thread: a lane is one inference at a time.
    torch.set_num_interop_threads(1)
    torch.set_num_threads(1)
    if "OpenMP" not in torch.__config__.parallel_info().split("ATen parallel backend:")[-1]:
        raise ModelError("this torch was built without OpenMP: threads cannot be set per batch; install another build")


def _load(name: str, source: str, max_batch: int, example_s: float) -> tuple[Any, ModelInfo]:
    from sponge_server.models.source import load

    model = load(source)
    if model.batched and model.max_batch is not None and model.max_batch < max_batch:
        raise ModelError(
            f"it was exported for at most {model.max_batch} rows: use --max-batch {name}={model.max_batch}"
        )
    if threads := _own_threads():
        raise ModelError(
            f"loading the model started {len(threads)} threads ({', '.join(sorted(set(threads))[:4])}), which a fork "
            "would lose: start them in setup(), which runs in each lane, and import there what starts one at import, "
            "or load the model without threads"
        )
    if model.size is not None:
        try:
            model.size.check(model.inputs)
        except RowSizeError as error:
            raise ModelError(str(error)) from None
    max_batch = max_batch if model.batched else 1
    found = probe(model, max_batch, example_s)
    model = replace(model, any_size=found.any_size, integers=found.integers)
    info = ModelInfo(
        name=name,
        inputs=model.inputs,
        outputs=found.outputs,
        max_batch=max_batch,
        labels=model.labels,
        accepts_images=model.image is not None,
        warning=" ".join(filter(None, (model.warning, found.warning))) or None,
        platform=model.platform,
        size=model.size,
        opened_by_threads=model.runtime is not None,
        batched=model.batched,
        any_size=model.any_size,
        integers=model.integers,
    )
    return model, info


def _own_threads() -> list[str]:
    """Names of the threads besides the first, after those have ended that only watch."""
    if (progress := sys.modules.get("tqdm")) is not None and progress.tqdm.monitor is not None:
        progress.tqdm.monitor.exit()
    named = {thread.native_id: thread.name for thread in threading.enumerate()}
    found = []
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has just ended
                found.append(named.get(int(task.name)) or (task / "comm").read_text().strip())
    return found


class _ForkServer:
    """Forks, kills and reaps lanes on request of the server, and answers each request once it is done."""

    def __init__(self, control: socket.socket, models: list[Any]) -> None:
        self._control = control
        self._models = models
        self._lanes: dict[int, int] = {}  # pid -> lane
        self._started_by_models = own_children()  # while they were loaded; they stay
        self._strays: set[int] = set()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._wake_read.setblocking(False)

    def serve(self) -> None:
        """Serves until the server is gone, then kills every lane."""
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()  # a model may have opened so many files that select cannot name the next
        for sock in (self._control, self._wake_read):
            poll.register(sock, select.POLLIN)
        try:
            while True:
                readable = {fd for fd, _ in poll.poll()}
                if self._wake_read.fileno() in readable:
                    self._wake_read.recv(4096)
                    for pid in go_on():
                        print(f"process {pid} was stopped, and goes on", file=sys.stderr)
                    self._reap()
                if self._control.fileno() in readable:
                    received = receive(self._control, _FORK_FDS)
                    if received is None:
                        return
                    send(self._control, self._obey(*received))
        except (BrokenPipeError, ConnectionResetError):
            return  # the server is gone
        finally:
            for pid in self._lanes:
                kill_group(pid)

    def _obey(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        if "kill" in message:
            if message["kill"] in self._lanes:  # not reaped yet, so the id cannot be another process's
                kill_group(message["kill"])
            return {"done": "kill"}
        try:
            return {"done": "fork", "lane": message["fork"], "pid": self._fork(message["fork"], fds)}
        except OSError as error:
            return {"done": "fork", "lane": message["fork"], "error": error.strerror}
        finally:
            for fd in fds:  # the lane must be the only holder, so that the socket closes when it ends
                os.close(fd)

    def _fork(self, lane: int, fds: list[int]) -> int:
        if len(fds) < _FORK_FDS:  # the kernel drops those that do not fit
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        pid = fork_leader()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for sock in (self._control, self._wake_read, self._wake_write):
                sock.close()
            end_process(lambda: _run_lane(self._models, fds))
        self._lanes[pid] = lane
        return pid

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):  # there is none left
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                lane = self._lanes.pop(pid, None)
                if lane is not None:
                    kill_group(pid)
                    send(self._control, {"ended": lane, "pid": pid, "how": how_it_ended(status)})
                if lane is not None or pid in self._strays:
                    self._strays.discard(pid)
                    self._end_strays()

    def _end_strays(self) -> None:
        """Kills what models have detached from their lanes: only orphans of lanes are children of this process."""
        for pid in own_children() - self._lanes.keys() - self._started_by_models:
            self._strays.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _run_lane(models: list[Any], fds: list[int]) -> None:
    fork_server = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != fork_server:
        return  # it died before the request above was in place
    from sponge_server.workers.worker import serve

    sock = socket.socket(fileno=fds[0])
    try:
        serve(models, sock, SharedMemory(fds[1]), SharedMemory(fds[2]))
    except (BrokenPipeError, ConnectionResetError):
        return  # the server went away in the middle of a batch


if __name__ == "__main__":
    main(int(sys.argv[1]))
    sys.stderr.flush()
    os._exit(0)  # torch's own clean-up takes long and can only fail
