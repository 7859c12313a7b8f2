"""A real Chromium, driven through its DevTools protocol: open a page, wait for something in it, look at it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
    *("--disable-dev-shm-usage", "--window-size=1360,1100"),
)
START_S = 60.0


class Browser:
    """One page of a browser with an empty profile, while in its context."""

    async def __aenter__(self) -> Self:
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        self._folder = Path(tempfile.mkdtemp(prefix="sponge-browser-"))
        self._process = await asyncio.create_subprocess_exec(
            program,
            *FLAGS,
            f"--user-data-dir={self._folder}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        self._number = 0
        self._session = aiohttp.ClientSession()
        async with asyncio.timeout(START_S):
            port = await self._port()
            while (page := await self._page(port)) is None:  # noqa: ASYNC110 - what is waited for is the browser
                await asyncio.sleep(0.05)
            self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def open(self, url: str) -> None:
        await self._call("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        value, error = await self._evaluate(expression)
        assert error is None, error
        return value

    async def until(self, expression: str, within_s: float = 30.0) -> Any:
        """Waits until the expression is true in the page, and returns its value.

        An expression that raises is not true yet: the page may still lack the elements that it reads. The error of the
        last try is in the message of the TimeoutError.
        """
        found, error = None, None
        try:
            async with asyncio.timeout(within_s):
                while not found:  # polled, because the browser cannot tell when an expression changes
                    found, error = await self._evaluate(expression)
                    await asyncio.sleep(0 if found else 0.05)
        except TimeoutError:
            raise TimeoutError(f"not true within {within_s:g} s: {expression} (last error: {error})") from None
        return found

    async def _evaluate(self, expression: str) -> tuple[Any, object]:
        """Value and error of an expression; the error is None where there is none."""
        answer = await self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value"), answer.get("exceptionDetails")

    async def screenshot(self) -> bytes:
        """The whole page as PNG."""
        answer = await self._call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    async def _port(self) -> str:
        file = self._folder / "DevToolsActivePort"
        while not (file.exists() and "\n" in (text := file.read_text())):
            assert self._process.returncode is None, "the browser has ended"
            await asyncio.sleep(0.05)
        return text.split("\n", 1)[0]

    async def _page(self, port: str) -> dict[str, Any] | None:
        """The first page, once there is one: the port is open a little earlier."""
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            targets: list[dict[str, Any]] = await answer.json()
        return next((target for target in targets if target["type"] == "page"), None)

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_str(json.dumps({"id": self._number, "method": method, "params": parameters}))
        async for message in self._socket:
            answer: dict[str, Any] = json.loads(message.data)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])
        raise AssertionError("the browser closed the connection")
