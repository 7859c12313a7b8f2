"""Those who wait until the threads of the running batches fit a smaller budget."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["FitWaiters"]


class FitWaiters:
    """Call `release` whenever the number of running threads may have fallen."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def wait(self, budget: int, running: int) -> None:
        """Returns once at most `budget` threads run; `running` do now."""
        if running > budget:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((budget, future))
            await future

    def release(self, running: int) -> None:
        """`running` threads run now."""
        for _ in range(len(self._waiting)):
            budget, future = self._waiting.popleft()
            if future.done():
                continue
            if running <= budget:
                future.set_result(None)
            else:
                self._waiting.append((budget, future))
