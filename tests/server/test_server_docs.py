"""`/docs` in a real browser that reaches no other server, and a correct description."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from server_process import ServerProcess

sys.path.append(str(Path(__file__).parents[1] / "demo"))
from browser import Browser

pytestmark = pytest.mark.torch

INFER = "/v2/models/{model}/infer"
INFER_VERSION = "/v2/models/{model}/versions/{version}/infer"
LOAD = "/v2/repository/models/{model}/load"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(
        tmp_path_factory.mktemp("d"), "--model", "digits=python://digits_shaped:factory", "--slo-ms", "20000"
    )
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def document(server: ServerProcess) -> dict[str, Any]:
    described: dict[str, Any] = server.get("/openapi.json").json
    return described


INFER_BLOCK = (
    "[...document.querySelectorAll('.opblock-post')]"
    ".find(block => block.innerText.replaceAll('\u200b', '').includes('{model}/infer'))"
)
"""The description of inference in the page, whose long paths may break at a character of no width."""


async def test_docs_need_no_other_server(server: ServerProcess) -> None:
    async with Browser() as browser:
        await browser.open(f"{server.data}/docs")
        await browser.until("document.querySelectorAll('.opblock').length >= 7")
        shown = await browser.value("[...document.querySelectorAll('.opblock-summary-path')].map(x => x.innerText)")
        assert any("infer" in path.replace("​", "") for path in shown)
        await browser.value(f"{INFER_BLOCK}.querySelector('.opblock-summary-control').click()")
        text = await browser.until(
            "(t => t.includes('x-sponge-slo-ms') && t.includes('Deadline') ? t : false)"
            f"({INFER_BLOCK}.innerText.replace('The deadline', 'Deadline'))"
        )
        assert "504" in text
        assert "Retry-After" in text
        loaded = await browser.value("performance.getEntriesByType('resource').map(entry => entry.name)")
        assert loaded
        assert [url for url in loaded if not url.startswith((server.data, "data:"))] == []
        assert (await browser.screenshot()).startswith(b"\x89PNG")


@pytest.mark.parametrize("path", [INFER, INFER_VERSION])
def test_the_hot_path_is_described(document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]
    wanted = {"200", "400", "401", "404", "413", "415", "422", "429", "500", "503", "504"}
    assert operation["responses"].keys() == wanted
    named = {parameter["name"] for parameter in operation["parameters"]}
    assert {"x-sponge-slo-ms", "x-sponge-sent-at", "grpc-timeout", "x-request-timeout-seconds"} <= named
    assert "Retry-After" in operation["responses"]["503"]["headers"]


def test_no_route_describes_a_422_that_never_occurs(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        if path not in (INFER, INFER_VERSION, LOAD):
            assert all("422" not in operation["responses"] for operation in operations.values()), path


def test_real_documents_match_the_description(server: ServerProcess, document: dict[str, Any]) -> None:
    def valid(name: str, value: Any) -> bool:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        return jsonschema_rs.validator_for(schema).is_valid(value)

    entry = {"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}
    request = {"id": "1", "inputs": [entry], "outputs": [{"name": "logits", "parameters": {"classification": 2}}]}
    reply = server.infer("digits", request)
    assert reply.status == 200
    assert valid("InferRequest", request)
    assert valid("InferResponse", reply.json)
    refused = server.infer("digits", {"inputs": []})
    assert refused.status == 400
    assert valid("Problem", refused.json)
    assert not valid("InferRequest", {"inputs": []})
    assert valid("ModelMetadata", server.get("/v2/models/digits").json)
