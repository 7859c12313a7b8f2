"""The model behind BentoML, in one service or in two. Runs in BentoML's own environment.

`Single` batches in the process that speaks HTTP, from base64 in JSON, as a batchable method takes no raw body. `Front`
takes a raw body and passes it on to `Model`, a process of its own that batches. The knobs come as PEER_KNOBS, as each
of BentoML's processes imports this module.
"""

import json
import logging
import os
from base64 import b64decode, b64encode
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

from bench.serving.model import load_model

KNOBS: dict[str, Any] = json.loads(os.environ["PEER_KNOBS"])
TRAFFIC = {"timeout": KNOBS["timeout_ms"] / 1000}
LIMITED = TRAFFIC | ({"max_concurrency": KNOBS["max_concurrency"]} if KNOBS["max_concurrency"] else {})
BATCHES = {"batchable": True, "max_batch_size": KNOBS["max_batch"], "max_latency_ms": KNOBS["max_latency_ms"]}
OctetStream = Annotated[bytes, ContentType("application/octet-stream")]

logging.getLogger("bentoml.access").setLevel(logging.WARNING)  # no line in the log for each request


class _Served:
    """The model in each worker process."""

    def __init__(self) -> None:
        self._model = load_model(KNOBS["threads"])

    def infer(self, bodies: list[bytes]) -> list[bytes]:
        """On whatever thread BentoML calls."""
        return self._model.infer(bodies)


@bentoml.service(workers=KNOBS["processes"], traffic=LIMITED)
class Single(_Served):
    """HTTP and the model in the same processes."""

    @bentoml.api(route="/infer", **BATCHES)
    def predict(self, images: list[str]) -> list[str]:
        """Base64 in and out."""
        return [b64encode(answer).decode() for answer in self.infer([b64decode(image) for image in images])]


# By default `Front` closes its connections every 100 requests, those that wait for an answer included: a 500 for each.
@bentoml.service(workers=KNOBS["processes"], traffic=TRAFFIC, runner_connection={"max_requests": 10**9, "max_age": 1e6})
class Model(_Served):
    """The model alone."""

    @bentoml.api(**BATCHES)
    def predict(self, images: list[bytes]) -> list[bytes]:
        """From `Front`, pickled by BentoML."""
        return self.infer(images)


@bentoml.service(workers=1, traffic=LIMITED)
class Front:
    """HTTP alone."""

    model = bentoml.depends(Model)

    @bentoml.api(route="/infer")
    async def predict(self, image: OctetStream, /) -> OctetStream:
        """Raw bytes in and out."""
        answers: list[bytes] = await self.model.to_async.predict([image])
        return answers[0]
