"""What requests leave behind in the HTTP process: objects in cycles, and free memory that the allocator keeps.

A full garbage collection looks at every object that may be part of a cycle, and its pauses are pauses of the event
loop. It comes whenever enough requests have left some behind, whatever the CPU that is free.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

from sponge_server.workers.allocator import give_back, held_bytes

__all__ = ["give_back_regularly", "spare_what_stays"]

LOOK_EVERY_S = 5.0
KEPT_BYTES = 16 << 20
"""So much more than after the last time may stay with the process."""


def spare_what_stays() -> None:
    """Frees what nobody refers to, and leaves out what is there now of every later collection.

    Call it when the server has started: what is there then stays for its life. To look at it takes 150 ms.
    """
    gc.collect()
    gc.freeze()


async def give_back_regularly(held: Callable[[], int] = held_bytes, give: Callable[[], None] = give_back) -> None:
    """Gives memory back to the kernel that requests have used and left in pieces. Runs until it is cancelled.

    Args:
        held: bytes of this process that belong to no file.
        give: gives back what is free; takes some 10 ms, in a thread of its own.
    """
    least = held()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = held()
        least = min(least, now)
        if now > least + KEPT_BYTES:
            await asyncio.to_thread(give)
            least = held()
