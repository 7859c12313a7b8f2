"""`/v1/embeddings` and `/v1/rerank` of a real server, with models of Hugging Face, and the same over the protocol."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hf_folders import TEXTS, bert_folder
from server_process import Reply, ServerProcess

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("s")
    embed = bert_folder(root / "embed", "BertModel")
    rank = bert_folder(root / "rank", "BertForSequenceClassification", ("score",))
    models = ("--model", f"embed=hf://{embed}", "--model", f"rank=hf://{rank}")
    running = ServerProcess(root, *models, "--slo-ms", "30000", "--cores", "1", "--max-batch", "4")
    yield running
    assert running.stop() == 0


def post(server: ServerProcess, path: str, document: Any, **headers: str) -> Reply:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.request(server.data + path, body, {"content-type": "application/json"} | given)


def embeddings(server: ServerProcess, **document: Any) -> Reply:
    return post(server, "/v1/embeddings", {"model": "embed", **document})


def test_embeddings_as_openai_has_them(server: ServerProcess) -> None:
    answer = embeddings(server, input=TEXTS)
    assert answer.status == 200, answer.body
    told = answer.json
    assert (told["object"], told["model"]) == ("list", "embed")
    assert [(each["object"], each["index"]) for each in told["data"]] == [("embedding", i) for i in range(len(TEXTS))]
    assert all(abs(np.linalg.norm(each["embedding"]) - 1) < 1e-5 for each in told["data"])
    assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] > len(TEXTS)
    assert "queue;dur=" in answer.headers["server-timing"]
    one = embeddings(server, input=TEXTS[1], encoding_format="base64", user="me").json["data"][0]["embedding"]
    assert np.allclose(np.frombuffer(base64.b64decode(one), "<f4"), told["data"][1]["embedding"], atol=1e-5)


def test_the_protocol_gives_the_same_embeddings(server: ServerProcess) -> None:
    text = {"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}
    answer = server.infer("embed", {"inputs": [text], "outputs": [{"name": "embedding"}]})
    assert answer.status == 200, answer.body
    vectors = [each["embedding"] for each in embeddings(server, input=TEXTS).json["data"]]
    assert np.allclose(answer.json["outputs"][0]["data"], np.ravel(vectors), atol=1e-5)


def test_rerank_orders_documents_by_score(server: ServerProcess) -> None:
    document = {"model": "rank", "query": "a dog", "documents": [*TEXTS, {"text": "fox"}], "return_documents": True}
    answer = post(server, "/v1/rerank", document)
    assert answer.status == 200, answer.body
    results = answer.json["results"]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result["index"] for result in results) == [0, 1, 2, 3]
    assert all(result["document"]["text"] == [*TEXTS, "fox"][result["index"]] for result in results)
    best = post(server, "/v1/rerank", document | {"top_n": 1}).json["results"]
    assert [result["index"] for result in best] == [results[0]["index"]]


def test_a_long_body_names_its_model_too(server: ServerProcess) -> None:
    answer = embeddings(server, input=['a "model": "none", dog. ' * 4000, "a dog"])
    assert answer.status == 200, answer.body
    assert len(answer.json["data"]) == 2


def test_an_objective_in_a_header_counts_as_everywhere(server: ServerProcess) -> None:
    answer = post(server, "/v1/embeddings", {"model": "embed", "input": "a"}, x_sponge_slo_ms="0.001")
    assert answer.status in (503, 504)


@pytest.mark.parametrize(
    ("path", "document", "status", "message"),
    [
        ("embeddings", b"{", 400, "cannot be read as JSON"),
        ("embeddings", [], 400, "must be a JSON object"),
        ("embeddings", {"input": "a"}, 400, '"model" is None, expected the name of a model of this server'),
        ("embeddings", {"model": "none", "input": "a"}, 404, "no model 'none' here; this server has 'embed', 'rank'"),
        ("embeddings", {"model": "embed"}, 400, '"input" must be a text or a list of texts'),
        ("embeddings", {"model": "embed", "input": [[1, 2]]}, 400, "lists of token numbers are not supported"),
        ("embeddings", {"model": "embed", "input": []}, 400, '"input" must be a text or a list of texts'),
        ("embeddings", {"model": "embed", "input": "a", "encoding_format": "x"}, 400, "expected float or base64"),
        ("embeddings", {"model": "embed", "input": "a", "dimensions": 2}, 400, "dimensions cannot be chosen"),
        ("embeddings", {"model": "rank", "input": "a"}, 422, "needs exactly the inputs query"),
        ("rerank", {"model": "rank", "documents": ["a"]}, 400, '"query" is None, expected a text'),
        ("rerank", {"model": "rank", "query": "a"}, 400, '"documents" must be a list of texts'),
        ("rerank", {"model": "rank", "query": "a", "documents": [1]}, 400, '"documents" must be a list of texts'),
        ("rerank", {"model": "rank", "query": "a", "documents": ["a"], "top_n": 0}, 400, "at least 1"),
        ("rerank", {"model": "embed", "query": "a", "documents": ["a"]}, 422, "needs exactly the inputs text"),
        ("embeddings", {"model": "embed", "input": ["a"] * 1100}, 400, "the request has 1100 texts"),
        ("embeddings", {"model": "embed", "input": "a", "x": [0] * 60_000}, 400, "too many values"),
    ],
)
def test_wrong_requests_are_told(server: ServerProcess, path: str, document: Any, status: int, message: str) -> None:
    answer = post(server, f"/v1/{path}", document)
    assert answer.status == status, answer.body
    assert message in answer.json["detail"]


def test_the_routes_take_posts_only(server: ServerProcess) -> None:
    assert server.get("/v1/embeddings").status == 405
