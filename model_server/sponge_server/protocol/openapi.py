"""What the data port says of itself: the description of the hot path, and `/docs` without any other server's help.

The hot path has no types of the web framework's, so its schemas are written here, beside the limits that the code has.
Knows no data plane.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from sponge_server.deadlines import LONGEST_S
from sponge_server.protocol.problems import PROBLEM_TYPE
from sponge_server.workers.interface import DATATYPE_SIZE

__all__ = ["PROBLEMS", "describe", "serve_docs"]

ASSETS = "/docs/assets"

Schema = dict[str, Any]


def serve_docs(app: FastAPI) -> None:
    """`/docs` from this server's own files: a cluster's pods often reach no other, nor do their readers' browsers."""
    files = Path(fastapi_offline.__file__).parent / "static"
    app.mount(ASSETS, StaticFiles(directory=files), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # Relative, so that it also works behind a proxy that puts a path in front.
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=f".{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f".{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f".{ASSETS}/favicon.png",
        )


def describe(app: FastAPI, *infer_paths: str) -> None:
    """Adds the hot path to the description that the framework generates, and takes out what never happens."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            for path in document["paths"].values():
                for operation in path.values():
                    # The framework foresees a mistake in every path parameter; any text is one.
                    operation["responses"].pop("422", None)
            components = document.setdefault("components", {}).setdefault("schemas", {})
            for name in ("HTTPValidationError", "ValidationError"):
                components.pop(name, None)
            components.update(_SCHEMAS)
            for path in infer_paths:
                document["paths"][path] = {"post": _infer_operation("{version}" in path)}
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _header(name: str, text: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": text}


def _problem(text: str, retry: bool = False) -> dict[str, Any]:
    described: dict[str, Any] = {"description": text, "content": {PROBLEM_TYPE: {"schema": _reference("Problem")}}}
    if retry:
        seconds = {"schema": {"type": "integer", "minimum": 0}, "description": "Seconds until it may be worth a try."}
        described["headers"] = {"Retry-After": seconds}
    return described


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: _problem("Not a request of the protocol, or a header that cannot be understood."),
    404: _problem("No such model or version."),
    413: _problem("The body, or its JSON part, is too large."),
    415: _problem("Unsupported Content-Type, or a Content-Encoding."),
    422: _problem("The tensors do not fit the model, or an image cannot be decoded."),
    500: _problem("The model failed."),
    503: _problem("Shed: it could not be met on arrival, or there is no room; or the server is not ready.", retry=True),
    504: _problem("The deadline cannot be met any more."),
}
"""Every problem that an answer may be, by status."""


def _milliseconds(longest_s: float) -> Schema:
    return {"type": "number", "exclusiveMinimum": 0, "maximum": longest_s * 1000}


_DEADLINE_HEADERS = [
    _header("x-sponge-slo-ms", "End-to-end milliseconds for this very request.", _milliseconds(LONGEST_S)),
    _header("x-sponge-slo-class", "Name of a class that the server was started with.", {"type": "string"}),
    _header(
        "x-request-timeout-seconds",
        "Seconds, as Ray Serve has it.",
        {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_S},
    ),
    _header("x-envoy-expected-rq-timeout-ms", "Milliseconds, as Envoy has it.", _milliseconds(LONGEST_S)),
    _header(
        "grpc-timeout", "Digits and a unit, as gRPC has it.", {"type": "string", "pattern": "^[1-9][0-9]{0,2}[Sm]$"}
    ),
    _header(
        "x-sponge-sent-at",
        "When the client sent the request, in epoch seconds; implausible ones are ignored, and counted.",
        {"type": "number"},
    ),
]

_DATATYPES = [*DATATYPE_SIZE, "BYTES"]
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0}, "description": "The first size counts the rows."}
_BINARY_SIZE = {
    "type": "integer",
    "minimum": 0,
    "description": "Its bytes behind the JSON part, instead of `data`.",
}

_SCHEMAS: dict[str, Schema] = {
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "description": "Comes back with the answer."},
            "parameters": {
                "type": "object",
                "properties": {
                    "timeout": {
                        "type": "number",
                        "exclusiveMinimum": 0,
                        "maximum": LONGEST_S * 1e6,
                        "description": "Microseconds until the answer is due.",
                    },
                    "priority": {"type": "integer", "minimum": 0, "description": "Accepted; deadlines decide."},
                    "binary_data_output": {"type": "boolean", "description": "All outputs as binary tensors."},
                },
            },
            "inputs": {"type": "array", "minItems": 1, "items": _reference("InputTensor")},
            "outputs": {
                "type": "array",
                "items": _reference("RequestedOutput"),
                "description": "Which outputs are wanted; all of them if there are none.",
            },
        },
    },
    "InputTensor": {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "datatype": {"type": "string", "enum": _DATATYPES},
            "shape": _SHAPE,
            "parameters": {"type": "object", "properties": {"binary_data_size": _BINARY_SIZE}},
            "data": {
                "type": "array",
                "items": {},
                "description": "Numbers, nested or flat in row-major order; base64 texts for BYTES (encoded images).",
            },
        },
    },
    "RequestedOutput": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "parameters": {
                "type": "object",
                "properties": {
                    "classification": {
                        "type": "integer",
                        "minimum": 0,
                        "description": "So many classes as `value:index:label` instead of the tensor.",
                    },
                    "binary_data": {"type": "boolean", "description": "This output as a binary tensor."},
                },
            },
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": _reference("OutputTensor")},
        },
    },
    "OutputTensor": {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"type": "string", "enum": _DATATYPES},
            "shape": _SHAPE,
            "parameters": {"type": "object", "properties": {"binary_data_size": _BINARY_SIZE}},
            "data": {"type": "array", "items": {}},
        },
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail", "error"],
        "properties": {
            "type": {"type": "string", "description": "`urn:sponge:problem:` and a word for programs."},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What is wrong, and what to do."},
            "error": {"type": "string", "description": "The detail again, where clients of the protocol look for it."},
        },
    },
}

_BINARY = {"type": "string", "format": "binary"}
_PART_LENGTH = {"type": "integer", "minimum": 1}


def _infer_operation(versioned: bool) -> dict[str, Any]:
    names = ("model", "version") if versioned else ("model",)
    path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    length = "Inference-Header-Content-Length"
    return {
        "tags": ["model"],
        "operationId": "infer_version" if versioned else "infer",
        "summary": "Run the model on one request.",
        "description": (
            "JSON tensors, binary tensors behind a JSON part, or one encoded image. The deadline is the most specific "
            "of: `x-sponge-slo-ms`, `x-sponge-slo-class`, `parameters.timeout` in the body, "
            "`x-request-timeout-seconds`, `x-envoy-expected-rq-timeout-ms`, `grpc-timeout`, the server's default; it "
            "counts from `x-sponge-sent-at` if that is plausible, else from the arrival of the headers."
        ),
        "parameters": [
            *path,
            *_DEADLINE_HEADERS,
            _header(length, "Bytes of JSON before the binary tensors; without it, all is JSON.", _PART_LENGTH),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _reference("InferRequest")},
                "application/octet-stream": {"schema": _BINARY},
                "image/jpeg": {"schema": _BINARY},
                "image/png": {"schema": _BINARY},
            },
        },
        "responses": {
            "200": {
                "description": "The outputs.",
                "headers": {
                    "Server-Timing": {
                        "schema": {"type": "string"},
                        "description": "Milliseconds of network, queue, batch and infer.",
                    },
                    length: {"schema": _PART_LENGTH, "description": "Bytes of JSON before the binary tensors, if any."},
                },
                "content": {
                    "application/json": {"schema": _reference("InferResponse")},
                    "application/octet-stream": {"schema": _BINARY},
                },
            },
            **{str(status): problem for status, problem in PROBLEMS.items()},
        },
    }
