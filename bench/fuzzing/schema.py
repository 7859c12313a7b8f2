"""Requests that schemathesis makes of the server's OpenAPI."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

__all__ = ["schema_cases"]


def schema_cases(address: str, count: int, seed: int) -> Iterator[bytes]:
    """About `count` raw requests for the server at `address`: half of them valid, half not."""
    import hypothesis
    import hypothesis.errors
    import requests
    import schemathesis

    schema = schemathesis.openapi.from_url(f"http://{address}/openapi.json")
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    made: list[bytes] = []

    def collect(case: Any) -> None:
        try:
            ready: Any = requests.Request(**case.as_transport_kwargs(base_url=f"http://{address}")).prepare()
        except (ValueError, requests.RequestException):
            return  # the other sources cover requests that no client library would send
        body = ready.body.encode() if isinstance(ready.body, str) else ready.body or b""
        headers = "".join(f"{name}: {_text(value)}\r\n" for name, value in ready.headers.items())
        made.append(f"{ready.method} {ready.path_url} HTTP/1.1\r\nhost: x\r\n{headers}\r\n".encode("latin-1") + body)

    for operation in operations:
        # The inference path gets the remaining cases; half of them name the loaded model.
        share = count // 2 if operation.method.upper() == "POST" else count // 4 // len(operations)
        paths = [None, {"model": "digits", "version": "1"} if "version" in operation.path else {"model": "digits"}]
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            for path in paths if operation.method.upper() == "POST" else [None]:
                strategy = operation.as_strategy(generation_mode=mode, path_parameters=path)
                given: Any = hypothesis.given(strategy)
                settings: Any = hypothesis.settings(
                    max_examples=max(1, share // 8),
                    database=None,
                    deadline=None,
                    suppress_health_check=list(hypothesis.HealthCheck),
                    phases=[hypothesis.Phase.generate],
                )
                test = settings(given(collect))
                # An operation without input has no invalid input.
                with contextlib.suppress(hypothesis.errors.Unsatisfiable):
                    seeded: Any = hypothesis.seed(seed)
                    seeded(test)()
    random.Random(seed).shuffle(made)
    return iter(made)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
