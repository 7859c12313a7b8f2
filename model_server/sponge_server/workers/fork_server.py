"""The zygote: loads every model once, on one thread, and forks a lane from itself whenever the server asks for one.

A fork copies only the thread that calls it, so a process that ever had a team of OpenMP threads would give its children
a team of ghosts: the first parallel loop there hangs. Hence one thread, checked after each model; batches run in the
lanes alone. Lanes share the weights copy-on-write, and each can run every model.

`pool` starts it as `python -m sponge_server.workers.fork_server FD` and holds the other end of FD. When that end
closes, it ends and takes its lanes along.
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
    # A waiting OpenMP thread must sleep: under a CPU quota, spinning eats what the others need.
    "OMP_WAIT_POLICY": "passive",
    # Teams are formed by set_num_threads in the lanes. numpy's BLAS would start threads at import, before the fork.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc gives every large activation back to the kernel and faults it in again: 6,000 page faults and some 15 % of
    # the time of a ResNet-18 batch of 4. Keep the memory; the next batch needs it.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
    # What a model prints is logged when it prints, and is in no buffer that a fork would copy.
    "PYTHONUNBUFFERED": "1",
}
"""To be set before the interpreter starts."""

NICENESS = 10
"""Lanes yield to the process that hands them their work: beside two computing lanes a refusal took 4 ms at the 90th
percentile, with this and `promptness` 1 ms. Inside one cgroup it takes no CPU from the lanes but what that needs."""

_PR_SET_PDEATHSIG = 1
_FORK_FDS = 3
_PROBE_TIMEOUT_S = 120.0  # generous: the pod may start on a sliver of a core


def main(fd: int) -> None:
    """Serves the other end of `fd` until it closes."""
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
        except Exception as error:  # noqa: BLE001 - a model source may raise anything; the server tells the user
            traceback.print_exc()
            send(control, {"failed": f"it cannot be loaded: {type(error).__name__}: {error}"})
            return
        send(control, {"loaded": asdict(info)})
        models.append(model)
    give_back()  # free pages would be shared with the lanes, and a copy made of each that one of them writes to
    gc.freeze()  # a collection in a lane would write to, and so copy, every page that holds an object
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
    """Names, types and row shapes of the outputs, from a tiny batch run in a process of its own."""
    answer = forked_call(lambda: _run_probe(model, max_batch), _PROBE_TIMEOUT_S, "a made-up input")
    return tuple(TensorSpec(o["name"], o["datatype"], tuple(o["shape"])) for o in answer["outputs"])


def _run_probe(model: Any, max_batch: int) -> dict[str, Any]:
    from sponge_server.models.loaded import TORCH_DTYPE
    from sponge_server.workers.worker import example_inputs

    oip = {dtype: name for name, dtype in TORCH_DTYPE.items()}
    try:
        rows = min(2, max_batch)  # two, to see that the batch dimension is free
        named = model.run(example_inputs(model, rows))
        unsendable = [f"{name} ({tensor.dtype})" for name, tensor in named if tensor.dtype not in oip]
        if unsendable:
            raise ItemError(f"output {unsendable[0]} has a type that cannot be sent")
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        text = str(error).strip()[:500] or type(error).__name__
        raise ModelError(f"the model fails on a made-up input: {text}") from None
    return {"outputs": [{"name": n, "datatype": oip[t.dtype], "shape": list(t.shape[1:])} for n, t in named]}


class _ForkServer:
    """Forks, kills and reaps lanes as the server says."""

    def __init__(self, control: socket.socket, models: list[Any]) -> None:
        self._control = control
        self._models = models
        self._lanes: dict[int, int] = {}  # pid -> lane
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._wake_read.setblocking(False)

    def serve(self) -> None:
        """Until the server is gone; then nothing of ours survives."""
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
                os.kill(pid, signal.SIGKILL)  # still ours to reap, so the id cannot be another process's

    def _fork(self, lane: int, fds: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for sock in (self._control, self._wake_read, self._wake_write):
                sock.close()
            end_process(lambda: _run_lane(self._models, fds))
        self._lanes[pid] = lane
        for fd in fds:  # the lane must be the only holder, so that its end shows as the socket's end
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
    zygote = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:
        return  # it died before the request to follow it was in place
    from sponge_server.workers.worker import serve

    sock = socket.socket(fileno=fds[0])
    try:
        serve(models, sock, SharedMemory(fds[1]), SharedMemory(fds[2]))
    except (BrokenPipeError, ConnectionResetError):
        return  # the server went away in the middle of a batch


if __name__ == "__main__":
    main(int(sys.argv[1]))
    sys.stderr.flush()
    os._exit(0)  # tearing torch down takes longer than the work, and can only fail
