"""Fork server: loads every model once, on one thread, and forks a lane from itself on request.

A fork copies only the calling thread. If this process ever had a team of OpenMP threads, its children would wait for
threads that do not exist, and their first parallel loop would hang. So it runs one thread, checked after each model,
and batches run in the lanes only. Lanes share the weights copy-on-write, and each can run every model.

The pool starts it as `python -m sponge_server.workers.fork_server FD` and holds the other end of FD. When that end
closes, the fork server ends, and its lanes with it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import sys
import traceback
from dataclasses import asdict
from typing import Any

from sponge_core.errors import SpongeError
from sponge_server.workers.allocator import give_back
from sponge_server.workers.forked_call import end_process, forked_call, how_it_ended
from sponge_server.workers.interface import ItemError, ModelError, ModelInfo, TensorSpec
from sponge_server.workers.ipc import SharedMemory, receive, send

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

_PR_SET_PDEATHSIG = 1
_FORK_FDS = 3
_PROBE_TIMEOUT_S = 120.0  # generous, because the pod may start on a fraction of a core


def main(fd: int) -> None:
    """Serves the other end of the socket `fd` until it closes."""
    os.nice(NICENESS)
    control = socket.socket(fileno=fd)
    first = receive(control)
    if first is None:
        return
    models: list[Any] = []
    for spec in first[0]["load"]:
        try:
            if not models:
                _prepare_torch()
            model, info = _load(**spec)
        except SpongeError as error:
            send(control, {"failed": str(error)})
            return
        except Exception as error:  # noqa: BLE001 - a model source may raise anything; the server reports it
            traceback.print_exc()
            send(control, {"failed": f"it cannot be loaded: {type(error).__name__}: {error}"})
            return
        send(control, {"loaded": asdict(info)})
        models.append(model)
    give_back()  # free pages would be shared with the lanes and copied when one of them writes
    gc.freeze()  # a collection in a lane would write to, and so copy, every page with an object
    _ForkServer(control, models).serve()


def _prepare_torch() -> None:
    import torch

    # Must precede any work. One inter-op thread: a lane is one inference at a time.
    torch.set_num_interop_threads(1)
    torch.set_num_threads(1)
    if "OpenMP" not in torch.__config__.parallel_info().split("ATen parallel backend:")[-1]:
        raise ModelError("this torch was built without OpenMP: threads cannot be set per batch; install another build")


def _load(name: str, source: str, max_batch: int) -> tuple[Any, ModelInfo]:
    from sponge_server.models.source import load

    model = load(source)
    if model.max_batch is not None and model.max_batch < max_batch:
        raise ModelError(
            f"it was exported for at most {model.max_batch} rows: use --max-batch {name}={model.max_batch}"
        )
    extra = len(os.listdir("/proc/self/task")) - 1  # noqa: PTH208 - names only
    if extra:
        raise ModelError(f"loading the model started {extra} threads, which a fork would lose: load it without threads")
    outputs = _probe(model, max_batch)
    info = ModelInfo(
        name=name,
        inputs=model.inputs,
        outputs=outputs,
        max_batch=max_batch,
        labels=model.labels,
        accepts_images=model.image is not None,
        warning=model.warning,
        platform=model.platform,
    )
    return model, info


def _probe(model: Any, max_batch: int) -> tuple[TensorSpec, ...]:
    """Names, types and row shapes of the outputs, from a tiny batch in a separate process."""
    answer = forked_call(lambda: _run_probe(model, max_batch), _PROBE_TIMEOUT_S, "an example input")
    return tuple(TensorSpec(o["name"], o["datatype"], tuple(o["shape"])) for o in answer["outputs"])


def _run_probe(model: Any, max_batch: int) -> dict[str, Any]:
    from sponge_server.models.loaded import TORCH_DTYPE
    from sponge_server.workers.worker import example_inputs

    oip = {dtype: name for name, dtype in TORCH_DTYPE.items()}
    try:
        rows = min(2, max_batch)  # two, to verify that the batch dimension is free
        named = model.run(example_inputs(model, rows))
        unsendable = [f"{name} ({tensor.dtype})" for name, tensor in named if tensor.dtype not in oip]
        if unsendable:
            raise ItemError(f"output {unsendable[0]} has a type that cannot be sent")
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        text = str(error).strip()[:500] or type(error).__name__
        raise ModelError(f"the model fails on an example input: {text}") from None
    return {"outputs": [{"name": n, "datatype": oip[t.dtype], "shape": list(t.shape[1:])} for n, t in named]}


class _ForkServer:
    """Forks, kills and reaps lanes on request of the server."""

    def __init__(self, control: socket.socket, models: list[Any]) -> None:
        self._control = control
        self._models = models
        self._lanes: dict[int, int] = {}  # pid -> lane
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._wake_read.setblocking(False)

    def serve(self) -> None:
        """Serves until the server is gone, then kills every lane."""
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            while True:
                readable, _, _ = select.select([self._control, self._wake_read], [], [])
                if self._wake_read in readable:
                    self._wake_read.recv(4096)
                    self._reap()
                if self._control in readable:
                    received = receive(self._control, _FORK_FDS)
                    if received is None:
                        return
                    self._obey(*received)
        except (BrokenPipeError, ConnectionResetError):
            return  # the server is gone
        finally:
            for pid in self._lanes:
                os.kill(pid, signal.SIGKILL)

    def _obey(self, message: dict[str, Any], fds: list[int]) -> None:
        if "fork" in message:
            self._fork(message["fork"], fds)
            return
        for pid, lane in self._lanes.items():
            if lane == message["kill"]:
                os.kill(pid, signal.SIGKILL)  # not reaped yet, so the id cannot be another process's

    def _fork(self, lane: int, fds: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for sock in (self._control, self._wake_read, self._wake_write):
                sock.close()
            end_process(lambda: _run_lane(self._models, fds))
        self._lanes[pid] = lane
        for fd in fds:  # the lane must be the only holder, so that the socket closes when it ends
            os.close(fd)

    def _reap(self) -> None:
        while self._lanes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            lane = self._lanes.pop(pid, None)
            if lane is not None:
                send(self._control, {"ended": lane, "pid": pid, "how": how_it_ended(status)})


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
