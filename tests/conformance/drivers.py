"""Stock clients of the protocol behind one interface: what they are asked and what comes back is plain data.

Runs in this project's environment for tritonclient, and as a program in an environment of its own for kserve's client,
whose dependencies contradict the project's: one pickled question a line of standard input, one answer a line out.
"""

from __future__ import annotations

import asyncio
import base64
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

__all__ = ["DRIVERS", "Ask", "Driver", "Reply"]

KINDS: dict[int | str, str] = {
    **{400: "invalid", 404: "not found", 413: "too large", 415: "invalid", 422: "invalid"},
    **{500: "failed", 503: "unavailable", 504: "expired"},
    **{"INVALID_ARGUMENT": "invalid", "NOT_FOUND": "not found", "RESOURCE_EXHAUSTED": "too large"},
    **{"INTERNAL": "failed", "UNAVAILABLE": "unavailable", "DEADLINE_EXCEEDED": "expired"},
}
"""What a status means, in either form of the protocol."""


@dataclass
class Ask:
    """One inference. An input is (name, datatype, shape, data): an array, or raw bytes of BF16, or a list of bytes."""

    model: str
    inputs: list[tuple[str, str, list[int], Any]]
    outputs: list[tuple[str, int]] = field(default_factory=list)  # name, classes; none: all outputs
    binary: bool = True
    version: str = ""
    id: str = ""
    timeout_us: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Reply:
    """What a client says: the outputs as (datatype, shape, values), or the kind of error and its words."""

    outputs: dict[str, tuple[str, list[int], Any]] = field(default_factory=dict)
    id: str = ""
    error: str = ""
    words: str = ""


class Driver(Protocol):
    """One client, connected."""

    def health(self, model: str) -> dict[str, bool]: ...

    def metadata(self, model: str) -> dict[str, Any] | None:
        """None: the client has no such call."""
        ...

    def infer(self, ask: Ask) -> Reply: ...


class Triton:
    """tritonclient, either form: their modules mirror each other."""

    def __init__(self, module: Any, address: str, rest: bool) -> None:
        self.module, self.rest = module, rest
        self.client = module.InferenceServerClient(address)

    def health(self, model: str) -> dict[str, bool]:
        client = self.client
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model": client.is_model_ready(model),
        }

    def metadata(self, model: str) -> dict[str, Any]:
        more = {} if self.rest else {"as_json": True}
        told = self.client.get_model_metadata(model, **more)
        return {
            "server": self.client.get_server_metadata(**more)["name"],
            "model": told["name"],
            "versions": told["versions"],
            "inputs": [
                [item["name"], item["datatype"], [int(size) for size in item["shape"]]] for item in told["inputs"]
            ],
        }

    def infer(self, ask: Ask) -> Reply:
        from tritonclient.utils import InferenceServerException

        binary: dict[str, Any] = {"binary_data": ask.binary} if self.rest else {}
        inputs = []
        for name, datatype, shape, data in ask.inputs:
            given = self.module.InferInput(name, shape, datatype)
            if isinstance(data, bytes):
                self._raw(given, data)
            else:
                array = np.array(data, dtype=object).reshape(shape) if isinstance(data, list) else data
                # Its JSON form of BYTES is text, which an image is not: for that the binary one is there.
                given.set_data_from_numpy(
                    array, **({"binary_data": True} if binary and datatype == "BYTES" else binary)
                )
            inputs.append(given)
        outputs = [self.module.InferRequestedOutput(name, class_count=top, **binary) for name, top in ask.outputs]
        if not outputs and not ask.binary and self.rest:
            names = [item["name"] for item in self.client.get_model_metadata(ask.model)["outputs"]]
            outputs = [self.module.InferRequestedOutput(name, binary_data=False) for name in names]
        try:
            result = self.client.infer(
                ask.model,
                inputs,
                model_version=ask.version,
                outputs=outputs or None,
                request_id=ask.id,
                timeout=ask.timeout_us,
                headers=ask.headers,
            )
        except InferenceServerException as error:
            status = str(error.status()).removeprefix("StatusCode.")
            return Reply(error=KINDS[int(status) if status.isdigit() else status], words=str(error.message()))
        told = result.get_response() if self.rest else result.get_response(as_json=True)
        found = {}
        for item in told["outputs"]:
            values = result.as_numpy(item["name"])
            texts = [value.decode() if isinstance(value, bytes) else value for value in values.ravel().tolist()]
            found[item["name"]] = (item["datatype"], [int(size) for size in item["shape"]], texts)
        return Reply(found, told.get("id", ""))

    def _raw(self, given: Any, data: bytes) -> None:
        """BF16, which numpy has not: what the client itself would write."""
        given._raw_data = given._raw_content = data
        if self.rest:
            given._parameters["binary_data_size"] = len(data)


class KServe:
    """kserve's client, either form, on a loop of its own."""

    def __init__(self, http: str, grpc: str, rest: bool) -> None:
        import kserve

        self.kserve, self.rest, self.url = kserve, rest, f"http://{http}"
        self.runner = asyncio.Runner()

        async def connect() -> Any:
            if rest:
                return kserve.InferenceRESTClient(kserve.inference_client.RESTConfig(protocol="v2", timeout=60))
            return kserve.InferenceGRPCClient(grpc, retries=0)

        self.client = self.runner.run(connect())

    def health(self, model: str) -> dict[str, bool]:
        client, base = self.client, (self.url,) if self.rest else ()
        return {
            "live": self.runner.run(client.is_server_live(*base)),
            "ready": self.runner.run(client.is_server_ready(*base)),
            "model": self.runner.run(client.is_model_ready(*base, model)),
        }

    def metadata(self, model: str) -> None:
        return None

    def infer(self, ask: Ask) -> Reply:
        import grpc
        import httpx

        kserve, inputs = self.kserve, []
        for name, datatype, shape, data in ask.inputs:
            given = kserve.InferInput(name, shape, datatype)
            if isinstance(data, bytes):
                given._raw_data = data
                given.parameters = {"binary_data_size": len(data)} if self.rest else None
            elif isinstance(data, list):
                given.set_data_from_numpy(np.array(data, dtype=object).reshape(shape), binary_data=True)
            else:
                given.set_data_from_numpy(data, binary_data=ask.binary)
            inputs.append(given)
        outputs = [
            kserve.protocol.infer_type.RequestedOutput(name, {"classification": top} if top else {})
            for name, top in ask.outputs
        ]
        parameters: dict[str, Any] = {} if ask.timeout_us is None else {"timeout": ask.timeout_us}
        if self.rest and ask.binary:
            parameters["binary_data_output"] = True
        request = kserve.InferRequest(
            ask.model,
            inputs,
            request_id=ask.id or None,
            parameters=parameters,
            request_outputs=outputs or None,
            model_version=ask.version or None,
        )
        try:
            if self.rest:
                path = f"{ask.model}/versions/{ask.version}" if ask.version else ask.model
                call = self.client.infer(self.url, request, headers=ask.headers, model_name=path)
            else:
                call = self.client.infer(request, headers=tuple(ask.headers.items()))
            response = self.runner.run(call)
        except httpx.HTTPStatusError as error:
            return Reply(error=KINDS[error.response.status_code], words=error.response.json()["detail"])
        except grpc.RpcError as error:
            return Reply(error=KINDS[error.code().name], words=error.details() or "")
        found = {}
        for output in response.outputs:
            values = output.as_numpy().ravel().tolist() if output.datatype != "BF16" else output.data
            texts = [value.decode() if isinstance(value, bytes) else value for value in values]
            found[output.name] = (output.datatype, list(output.shape), texts)
        return Reply(found, response.id or "")


def _triton_http(http: str, _: str) -> Driver:
    import tritonclient.http

    return Triton(tritonclient.http, http, rest=True)


def _triton_grpc(_: str, grpc: str) -> Driver:
    import tritonclient.grpc

    return Triton(tritonclient.grpc, grpc, rest=False)


DRIVERS: dict[str, Callable[[str, str], Driver]] = {
    "triton-http": _triton_http,
    "triton-grpc": _triton_grpc,
    "kserve-rest": lambda http, grpc: KServe(http, grpc, rest=True),
    "kserve-grpc": lambda http, grpc: KServe(http, grpc, rest=False),
}


def main() -> None:
    """Answers what comes on standard input: `[what, driver, http, grpc, argument]`."""
    out, sys.stdout = sys.stdout, sys.stderr
    connected: dict[tuple[str, str, str], Driver] = {}
    for line in sys.stdin:
        what, name, http, grpc, argument = pickle.loads(base64.b64decode(line))
        if (name, http, grpc) not in connected:
            connected[name, http, grpc] = DRIVERS[name](http, grpc)
        try:
            answer = getattr(connected[name, http, grpc], what)(argument)
        except Exception as error:  # noqa: BLE001 - told to the test, whatever it is
            answer = error if pickle_able(error) else RuntimeError(repr(error))
        print(base64.b64encode(pickle.dumps(answer)).decode(), file=out, flush=True)


def pickle_able(value: object) -> bool:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:  # noqa: BLE001 - any reason is one
        return False
    return True


if __name__ == "__main__":
    # Under the name that the other side knows the classes by.
    sys.modules["drivers"] = sys.modules["__main__"]
    Ask.__module__ = Reply.__module__ = "drivers"
    main()
