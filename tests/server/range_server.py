"""A local HTTP server of files that answers ranges, and misbehaves on demand."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Files:
    """What is served, and how.

    Attributes:
        content: bytes by path.
        etag: the version of all files.
        cut: answers that end in the middle of their body, from now on.
        ranges: whether parts of a file can be had.
        status: of every answer, if it is not 200 or 206.
        asked: the ranges that were asked for, by path.
    """

    content: dict[str, bytes]
    url: str = ""
    etag: str = "one"
    cut: int = 0
    ranges: bool = True
    status: int | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextlib.contextmanager
def serving(content: dict[str, bytes]) -> Iterator[Files]:
    """A running server of these files."""
    files = Files(content)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            body = files.content.get(path)
            if files.status is not None or body is None:
                self.send_response(files.status or 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            wanted = self.headers.get("Range")
            if with_body:
                files.asked.append((path, wanted))
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted or "")
            part = body[int(found[1]) : int(found[2]) + 1] if found and files.ranges else body
            self.send_response(206 if found and files.ranges else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", f'"{files.etag}"')
            if files.ranges:
                self.send_header("Accept-Ranges", "bytes")
            if found and files.ranges:
                self.send_header("Content-Range", f"bytes {found[1]}-{found[2]}/{len(body)}")
            self.end_headers()
            if with_body and files.cut:
                files.cut -= 1
                self.wfile.write(part[: len(part) // 2])
                self.close_connection = True
            elif with_body:
                self.wfile.write(part)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
