"""Asks the kernel to run this process soon after it wakes, though lanes compute on every core.

Since Linux 6.12 a task with a shorter time slice than the running one takes its place at once; with the usual slice an
arriving request waits for some milliseconds until a lane has used up its own. The share of the CPU does not change.
Knows the system call, and nothing of who is to be prompt.
"""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["wake_promptly"]

SLICE_NS = 100_000
"""The shortest that the kernel grants."""

SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Its number by machine; older C libraries have no function for it."""

RESET_ON_FORK = 1
"""Lanes must not inherit it: among equals nobody is prompt."""


class _SchedAttr(ctypes.Structure):
    """`struct sched_attr` of the kernel, first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


def wake_promptly() -> bool:
    """Sets a short slice for the calling thread. False where the kernel does not let us, which costs promptness only.

    Older kernels accept it and do nothing.
    """
    number = SCHED_SETATTR.get(platform.machine())
    if platform.system() != "Linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    attr = _SchedAttr(
        size=ctypes.sizeof(_SchedAttr),
        sched_policy=os.SCHED_OTHER,
        sched_flags=RESET_ON_FORK,
        sched_nice=os.getpriority(os.PRIO_PROCESS, 0),
        sched_runtime=SLICE_NS,
    )
    result: int = ctypes.CDLL(None, use_errno=True).syscall(number, 0, ctypes.byref(attr), 0)
    return result == 0
