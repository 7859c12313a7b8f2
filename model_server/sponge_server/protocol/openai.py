"""`/v1/embeddings` and `/v1/rerank`: JSON as clients of OpenAI, Cohere and Jina send it, to requests and back.

A model fits if its inputs are strings: `text` with an output `embedding`, or `query` and `text` with an output `score`,
as those of `hf://` are. The body names the model.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import orjson

from sponge_server.bounds import Bounds
from sponge_server.protocol.long_json import LONG_TEXT_BYTES, check_values
from sponge_server.protocol.oip import InferRequest, OipError, Strings, check_count, shown, values_of
from sponge_server.workers.interface import Tensor

__all__ = ["ROUTES", "Form", "model_of"]

_MODEL = re.compile(rb'"model"\s*+:\s*+"([^"\\]{1,300})"')


class Form(Protocol):
    """One request of a route, and its answer."""

    def decode(self, body: bytes | bytearray, bounds: Bounds) -> InferRequest:
        """Reads the request. Raises OipError."""
        ...

    def encode(self, model: str, outputs: Sequence[Tensor]) -> bytes:
        """The body of the answer. Raises OipError when the model has not the outputs for it."""
        ...


def model_of(body: bytes | bytearray) -> str:
    """The name of the model in a body, without reading all of a long one. Raises OipError."""
    if len(body) > LONG_TEXT_BYTES:
        found = _MODEL.search(body)
        name: object = None if found is None else found[1].decode(errors="replace")
    else:
        name = _read(body).get("model")
    if not isinstance(name, str) or not name:
        raise OipError(f'"model" is {shown(name)}, expected the name of a model of this server')
    return name


class Embeddings:
    """`POST /v1/embeddings`."""

    def __init__(self) -> None:
        self._base64 = False

    def decode(self, body: bytes | bytearray, bounds: Bounds) -> InferRequest:
        document = _checked(body, bounds)
        given = document.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise OipError('"input" must be a text or a list of texts; lists of token numbers are not supported')
        form = document.get("encoding_format") or "float"
        if form not in ("float", "base64"):
            raise OipError(f"encoding_format is {shown(form)}, expected float or base64")
        if document.get("dimensions") is not None:
            raise OipError("dimensions cannot be chosen: leave it out")
        self._base64 = form == "base64"
        return InferRequest(strings=(_strings("text", texts, bounds),))

    def encode(self, model: str, outputs: Sequence[Tensor]) -> bytes:
        vectors = _output(outputs, "embedding", model, 2, "embeddings")
        rows = np.ascontiguousarray(values_of(vectors).reshape(vectors.shape), np.float32)
        data = [
            {"object": "embedding", "index": i, "embedding": base64.b64encode(row).decode() if self._base64 else row}
            for i, row in enumerate(rows)
        ]
        tokens = _tokens(outputs)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return orjson.dumps(
            {"object": "list", "data": data, "model": model, "usage": usage}, option=orjson.OPT_SERIALIZE_NUMPY
        )


class Rerank:
    """`POST /v1/rerank`."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._most: int | None = None
        self._with_documents = False

    def decode(self, body: bytes | bytearray, bounds: Bounds) -> InferRequest:
        document = _checked(body, bounds)
        query, given = document.get("query"), document.get("documents")
        if not isinstance(query, str):
            raise OipError(f'"query" is {shown(query)}, expected a text')
        listed: list[Any] = given if isinstance(given, list) else []
        found = [each.get("text") if isinstance(each, dict) else each for each in listed]
        texts = [text for text in found if isinstance(text, str)]
        if not texts or len(texts) < len(found):
            raise OipError('"documents" must be a list of texts, or of objects with a "text"')
        most = document.get("top_n")
        if most is not None and (type(most) is not int or most < 1):
            raise OipError(f"top_n is {shown(most)}, expected a whole number of at least 1")
        self._texts, self._most = texts, most
        self._with_documents = document.get("return_documents") is True
        return InferRequest(strings=(_strings("query", [query] * len(texts), bounds), _strings("text", texts, bounds)))

    def encode(self, model: str, outputs: Sequence[Tensor]) -> bytes:
        scores = values_of(_output(outputs, "score", model, 1, "rerank"))
        best = np.argsort(-scores, kind="stable")[: self._most].tolist()
        results: list[dict[str, Any]] = [{"index": i, "relevance_score": float(scores[i])} for i in best]
        if self._with_documents:
            results = [{**result, "document": {"text": self._texts[result["index"]]}} for result in results]
        return orjson.dumps({"model": model, "results": results, "usage": {"total_tokens": _tokens(outputs)}})


ROUTES: dict[str, type[Embeddings] | type[Rerank]] = {"/v1/embeddings": Embeddings, "/v1/rerank": Rerank}
"""By path: what reads and answers its requests; one object for each."""


def _checked(body: bytes | bytearray, bounds: Bounds) -> dict[str, Any]:
    check_values(body, bounds)
    return _read(body)


def _read(body: bytes | bytearray) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise OipError(f"the body cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise OipError("the body must be a JSON object")
    return document


def _strings(name: str, texts: Sequence[str], bounds: Bounds) -> Strings:
    check_count("texts", len(texts), bounds.strings)
    return Strings(name, (len(texts),), tuple(text.encode() for text in texts))


def _output(outputs: Sequence[Tensor], name: str, model: str, dimensions: int, route: str) -> Tensor:
    for tensor in outputs:
        if tensor.name == name and len(tensor.shape) == dimensions and tensor.datatype != "BYTES":
            return tensor
    raise OipError(f"model {model} has no output {name} with {dimensions} dimensions, so it does not fit /v1/{route}")


def _tokens(outputs: Sequence[Tensor]) -> int:
    counts = [values_of(tensor) for tensor in outputs if tensor.name == "tokens" and tensor.datatype != "BYTES"]
    return int(counts[0].sum()) if counts else 0
