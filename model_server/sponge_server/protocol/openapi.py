"""OpenAPI description of the data port, and `/docs` from this server's own files.

Inference bypasses the web framework, so its schemas are written here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from sponge_core.deadlines import LONGEST_S
from sponge_server.protocol.problems import PROBLEM_TYPE
from sponge_server.workers.interface import DATATYPE_SIZE

__all__ = ["CONTROL_PROBLEMS", "PROBLEMS", "describe", "serve_docs"]

ASSETS = "/docs/assets"

Schema = dict[str, Any]


def serve_docs(app: FastAPI) -> None:
    """Adds `/docs` with files of this server, because pods and browsers in a cluster often reach no other server."""
    files = Path(fastapi_offline.__file__).parent / "static"
    app.mount(ASSETS, StaticFiles(directory=files), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # Relative, so that it also works behind a proxy that adds a path prefix.
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=f".{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f".{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f".{ASSETS}/favicon.png",
        )


def describe(app: FastAPI, *infer_paths: str) -> None:
    """Adds inference to the generated description, and removes responses that never occur."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            for path in document["paths"].values():
                for operation in path.values():
                    # The framework adds a validation error for path parameters, but any text is valid.
                    if operation["responses"].get("422", {}).get("description") == "Validation Error":
                        del operation["responses"]["422"]
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
        seconds = {"schema": {"type": "integer", "minimum": 0}, "description": "Seconds until a retry may succeed."}
        described["headers"] = {"Retry-After": seconds}
    return described


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: _problem("Not a request of the protocol, or an invalid header."),
    401: _problem("The server asks for an API key, and the request carries none that is in force."),
    404: _problem("No such model or version."),
    413: _problem("The body, or its JSON part, is too large."),
    415: _problem("Unsupported Content-Type or Content-Encoding."),
    422: _problem("The tensors do not fit the model, or an image cannot be decoded."),
    429: _problem("This client has used up its quota.", retry=True),
    500: _problem("The model failed."),
    503: _problem(
        "Shed: the deadline cannot be met, or memory or the queue is full. Or the server is not ready.", retry=True
    ),
    504: _problem("The deadline can no longer be met."),
}
"""Every error response of inference and metadata, by status."""

CONTROL_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: _problem("The parameters of the request are invalid."),
    401: _problem("The request does not carry the control token."),
    403: _problem("Model control is off."),
    404: _problem("No such model."),
    409: _problem("Another version is being loaded."),
    413: PROBLEMS[413],
    422: _problem("The version cannot be loaded, or does not fit into the memory; the former one serves on."),
    503: _problem("The server is not ready."),
}
"""Every error response of loading and unloading, by status."""


def _milliseconds(longest_s: float) -> Schema:
    return {"type": "number", "exclusiveMinimum": 0, "maximum": longest_s * 1000}


_DEADLINE_HEADERS = [
    _header("x-sponge-slo-ms", "End-to-end milliseconds for this request.", _milliseconds(LONGEST_S)),
    _header("x-llm-d-slo-ttft-ms", "Milliseconds to the first token, as in llm-d.", _milliseconds(LONGEST_S)),
    _header("x-slo-ttft-ms", "The same, as in inference gateways.", _milliseconds(LONGEST_S)),
    _header("x-sponge-slo-class", "Name of an SLO class that the server was started with.", {"type": "string"}),
    _header(
        "x-request-timeout-seconds",
        "Seconds, as in Ray Serve.",
        {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_S},
    ),
    _header("x-envoy-expected-rq-timeout-ms", "Milliseconds, as in Envoy.", _milliseconds(LONGEST_S)),
    _header("grpc-timeout", "Digits and a unit, as in gRPC.", {"type": "string", "pattern": "^[1-9][0-9]{0,2}[Sm]$"}),
    _header(
        "x-sponge-sent-at",
        "When the client sent the request, in epoch seconds. Implausible times are ignored and counted.",
        {"type": "number"},
    ),
]

_DATATYPES = [*DATATYPE_SIZE, "BYTES"]
_SHAPE = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0},
    "description": "The first size is the number of rows, if the model has a batch. Of a ragged output it is the "
    "number of all entries, and NAME_lengths has those of each row.",
}
_BINARY_SIZE = {
    "type": "integer",
    "minimum": 0,
    "description": "Number of its bytes after the JSON part, instead of `data`.",
}

_SCHEMAS: dict[str, Schema] = {
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "description": "Returned in the response."},
            "parameters": {
                "type": "object",
                "properties": {
                    "timeout": {
                        "type": "number",
                        "minimum": 0,
                        "maximum": LONGEST_S * 1e6,
                        "description": "Microseconds until the response is due; 0 means none.",
                    },
                    "priority": {
                        "type": "integer",
                        "minimum": 0,
                        "description": "Accepted without effect; deadlines decide.",
                    },
                    "binary_data_output": {"type": "boolean", "description": "All outputs as binary tensors."},
                },
            },
            "inputs": {"type": "array", "minItems": 1, "items": _reference("InputTensor")},
            "outputs": {
                "type": "array",
                "items": _reference("RequestedOutput"),
                "description": "Requested outputs; all of them if there are none.",
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
                "description": "Numbers, nested or flat in row-major order; strings for BYTES, in base64 for images.",
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
                        "description": "Return this many classes as `value:index:label` instead of the tensor.",
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
            "type": {"type": "string", "description": "`urn:sponge:problem:` and the kind of problem, for programs."},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What is wrong, and what to do."},
            "error": {"type": "string", "description": "The detail again; clients of the protocol look for it here."},
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
            "JSON tensors, binary tensors after a JSON part, or one encoded image. The deadline is the most specific "
            "of: `x-sponge-slo-ms`, `x-llm-d-slo-ttft-ms`, `x-slo-ttft-ms`, `x-sponge-slo-class`, "
            "`parameters.timeout` in the body, "
            "`x-request-timeout-seconds`, `x-envoy-expected-rq-timeout-ms`, `grpc-timeout`, the server's default; it "
            "counts from `x-sponge-sent-at` if that is plausible, else from the arrival of the headers."
        ),
        "parameters": [
            *path,
            *_DEADLINE_HEADERS,
            _header("content-encoding", "Coding of the body.", {"type": "string", "enum": ["gzip", "deflate"]}),
            _header("accept-encoding", "With gzip, the answer may be compressed.", {"type": "string"}),
            _header(length, "Bytes of JSON before the binary tensors; without it, all is JSON.", _PART_LENGTH),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _reference("InferRequest")},
                "application/octet-stream": {"schema": _BINARY},
                "image/jpeg": {"schema": _BINARY},
                "image/png": {"schema": _BINARY},
                "image/webp": {"schema": _BINARY},
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
