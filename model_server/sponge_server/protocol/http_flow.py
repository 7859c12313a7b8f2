"""When a connection's transport may be read. Adapts uvicorn."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl

__all__ = ["Flow"]


class Flow(FlowControl):
    """Lets nobody resume reading while bytes of the connection wait to be parsed."""

    def __init__(self, transport: asyncio.Transport, ahead: bytearray) -> None:
        super().__init__(transport)
        self._ahead = ahead

    def resume_reading(self) -> None:
        if not self._ahead:
            super().resume_reading()
