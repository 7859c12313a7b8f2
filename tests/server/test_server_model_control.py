"""Model control: who may load and unload models, over REST and gRPC, and what a request may ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from starlette.testclient import TestClient

from sponge_core.control_api import SourceReport
from sponge_server.control.control_app import control_app
from sponge_server.lifecycle import Lifecycle, Loaded
from sponge_server.model_state import Failure
from sponge_server.observability.metrics import Metrics
from sponge_server.protocol.extensions import index_document
from sponge_server.protocol.grpc_keys import OPEN_CALLS
from sponge_server.protocol.grpc_service import SERVICE, inference_handler
from sponge_server.protocol.http_app import data_app
from sponge_server.protocol.key_guard import OPEN_PATHS
from sponge_server.protocol.model_control import ModelControl, change_of, controls
from sponge_server.protocol.problems import ProblemError
from sponge_server.protos import inference_pb2 as pb
from sponge_server.repository import Change
from sponge_server.security.control_token import ControlToken
from sponge_server.settings import ContradictionError, ServerSettings
from sponge_server.startup.profile_board import ProfileBoard


class Recorder:
    """In place of the repository."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def load(self, name: str, change: Change) -> str:
        self.asked.append((name, change))
        return "2"

    def unload(self, name: str) -> None:
        self.asked.append(name)

    def report(self, name: str) -> SourceReport:
        return SourceReport(serving=f"{name}.pt2")


def control(tmp_path: Path, *, token: bool = True, loaded: bool = True) -> tuple[ModelControl, Recorder]:
    (tmp_path / "token").write_text("secret\n")
    held = ControlToken(tmp_path / "token")
    held.load()
    recorder = Recorder()
    repository: Loaded[Any] = Loaded(Lifecycle(["m"], "ready"), recorder if loaded else None)
    return ModelControl(repository, held if token else None), recorder


def client(models: ModelControl | None) -> TestClient:
    return TestClient(data_app(Loaded(Lifecycle(["m"], "ready")), models))


@pytest.mark.parametrize("what", ["load", "unload"])
def test_only_the_control_token_opens_it(what: str, tmp_path: Path) -> None:
    models, recorder = control(tmp_path)
    path, http = f"/v2/repository/models/m/{what}", client(models)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}, {"x-api-key": "secret"}):
        refused = http.post(path, headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (401, "urn:sponge:problem:token-required")
    assert recorder.asked == []
    assert http.post(path, headers={"authorization": "Bearer secret"}).status_code == 200
    assert recorder.asked == [("m", Change()) if what == "load" else "m"]


@pytest.mark.parametrize("what", ["load", "unload"])
def test_a_server_without_model_control_names_the_setting(what: str, tmp_path: Path) -> None:
    for models in (None, control(tmp_path, token=False)[0]):
        refused = client(models).post(f"/v2/repository/models/m/{what}", headers={"authorization": "Bearer secret"})
        assert refused.status_code == 403
        assert "--model-control explicit" in refused.json()["detail"]


def test_nothing_is_loaded_before_the_first_models_are(tmp_path: Path) -> None:
    models, _ = control(tmp_path, loaded=False)
    refused = client(models).post("/v2/repository/models/m/load", headers={"authorization": "Bearer secret"})
    assert refused.status_code == 503


def test_model_control_needs_a_token() -> None:
    with pytest.raises(ContradictionError, match="needs control-token-file"):
        ServerSettings(model={"m": "digits://"}, model_control="explicit")
    given: Any = {"model": {"m": "digits://"}, "model_control": "explicit", "control_token_file": Path("token")}
    ServerSettings(**given)
    with pytest.raises(ContradictionError, match="with variants"):
        ServerSettings(**given, variant={"small": "digits://"}, accuracy={"m": 0.9, "small": 0.8})


@pytest.mark.parametrize(("mode", "data", "port"), [("none", 403, 403), ("control", 403, 200), ("explicit", 401, 200)])
def test_the_mode_opens_ports(mode: Any, data: int, port: int, tmp_path: Path) -> None:
    """`control` opens the control port alone, as a service of the operator needs it."""
    (tmp_path / "token").write_text("secret")
    given: Any = {"model": {"m": "digits://"}, "model_control": mode, "control_token_file": tmp_path / "token"}
    token = ControlToken(tmp_path / "token")
    token.load()
    repository: Loaded[Any] = Loaded(Lifecycle(["m"], "ready"), Recorder())
    on_data, on_control = controls(ServerSettings(**given), repository, token)
    assert client(on_data).post("/v2/repository/models/m/load").status_code == data
    app = control_app(Loaded(Lifecycle(["m"], "ready")), Metrics(), token, ProfileBoard(), on_control)
    asked = TestClient(app).get("/control/v1/models/m/source", headers={"authorization": "Bearer secret"})
    assert asked.status_code == port


def test_an_api_key_is_not_asked_for_where_the_token_is() -> None:
    assert OPEN_PATHS.fullmatch("/v2/repository/models/m/load")
    assert OPEN_PATHS.fullmatch("/v2/repository/models/m/unload")
    assert not OPEN_PATHS.fullmatch("/v2/repository/models/m/load/x")
    assert not OPEN_PATHS.fullmatch("/v2/repository/index")
    assert OPEN_CALLS.fullmatch(f"/{SERVICE}/RepositoryModelLoad")
    assert OPEN_CALLS.fullmatch(f"/{SERVICE}/RepositoryModelUnload")
    assert not OPEN_CALLS.fullmatch(f"/{SERVICE}/RepositoryIndex")


async def test_the_same_over_grpc(tmp_path: Path) -> None:
    models, recorder = control(tmp_path)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((inference_handler(Loaded(Lifecycle(["m"], "ready")), Metrics(), models),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    request = pb.RepositoryModelLoadRequest(model_name="m")
    request.parameters["source"].string_param = "digits://"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        load: Any = channel.unary_unary(f"/{SERVICE}/RepositoryModelLoad")
        unload: Any = channel.unary_unary(f"/{SERVICE}/RepositoryModelUnload")
        with pytest.raises(grpc.RpcError) as refused:
            await load(request.SerializeToString())
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", "Bearer secret"),)
        await load(request.SerializeToString(), metadata=metadata)
        request.parameters["source"].int64_param = 3
        with pytest.raises(grpc.RpcError) as refused:
            await load(request.SerializeToString(), metadata=metadata)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        await unload(pb.RepositoryModelUnloadRequest(model_name="m").SerializeToString(), metadata=metadata)
    await server.stop(None)
    assert recorder.asked == [("m", Change("digits://")), "m"]


@pytest.mark.parametrize(
    ("parameters", "change"),
    [
        ({}, Change()),
        ({"source": "digits://"}, Change("digits://")),
        ({"config": "{}"}, Change()),
        ({"config": json.dumps({"name": "m", "max_batch_size": 4})}, Change(None, 4)),
        ({"config": json.dumps({"parameters": {"source": {"string_value": "digits://"}}})}, Change("digits://")),
        ({"config": json.dumps({"parameters": {"source": "digits://"}})}, Change("digits://")),
        ({"source": "digits://", "config": json.dumps({"max_batch_size": 2})}, Change("digits://", 2)),
    ],
)
def test_what_a_load_may_change(parameters: dict[str, object], change: Change) -> None:
    assert change_of("m", parameters) == change


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"sauce": "digits://"}, "a load takes source and config"),
        ({"file:1/model.onnx": "AA=="}, "give files by a source"),
        ({"source": 3}, "give the text of a model source"),
        ({"source": ""}, "give the text of a model source"),
        ({"config": "{"}, "cannot be read as JSON"),
        ({"config": "[]"}, "a JSON object"),
        ({"config": {}}, "a JSON object"),
        ({"config": json.dumps({"backend": "onnxruntime"})}, "it may have name, max_batch_size"),
        ({"config": json.dumps({"name": "n"})}, "is of model 'n'"),
        ({"config": json.dumps({"max_batch_size": 0})}, "a whole number >= 1"),
        ({"config": json.dumps({"max_batch_size": True})}, "a whole number >= 1"),
        ({"config": json.dumps({"max_batch_size": "4"})}, "a whole number >= 1"),
        ({"config": json.dumps({"parameters": []})}, "source only"),
        ({"config": json.dumps({"parameters": {"x": "y"}})}, "source only"),
        ({"config": json.dumps({"parameters": {"source": {"string_value": 3}}})}, "give the text of a model source"),
    ],
)
def test_what_a_load_may_not_change(parameters: dict[str, object], why: str) -> None:
    with pytest.raises(ProblemError) as refused:
        change_of("m", parameters)
    assert refused.value.status == 400
    assert why in refused.value.detail


@pytest.mark.parametrize("body", ["[]", "{", '{"parameters": []}'])
def test_a_body_that_is_none_of_the_protocol(body: str, tmp_path: Path) -> None:
    models, recorder = control(tmp_path)
    headers = {"authorization": "Bearer secret"}
    assert client(models).post("/v2/repository/models/m/load", content=body, headers=headers).status_code == 400
    assert recorder.asked == []


def test_the_index_shows_every_version() -> None:
    lifecycle = Lifecycle(["m", "n"], "ready")
    state = lifecycle.states["m"]
    state.serving, state.ending, state.loading, state.failed = (
        "3",
        "1",
        "4",
        Failure("2", "m.pt2", False, "torn weights"),
    )
    lifecycle.states["n"].serving = None
    assert [tuple(entry.values()) for entry in index_document(lifecycle, only_ready=False)] == [
        ("m", "3", "READY", ""),
        ("m", "1", "UNLOADING", "it answers the requests that came for it"),
        ("m", "4", "LOADING", ""),
        ("m", "2", "UNAVAILABLE", "torn weights"),
        ("n", "1", "UNAVAILABLE", "unloaded"),
    ]
    assert [entry["version"] for entry in index_document(lifecycle, only_ready=True)] == ["3"]


def test_the_description_tells_of_loading() -> None:
    document: Any = orjson.loads(client(None).get("/openapi.json").content)
    operation = document["paths"]["/v2/repository/models/{model}/load"]["post"]
    assert {"200", "401", "403", "404", "409", "422", "503"} <= operation["responses"].keys()
