"""The model as an MLServer runtime: BYTES tensors, base64 in JSON. Runs in MLServer's own environment.

MLServer's REST side takes no binary tensors; a string of base64 is the form that costs it least by far.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from bench.serving.model import load_model

__all__ = ["Served"]


class Served(MLModel):
    """The model in each worker process."""

    async def load(self) -> bool:
        """Called on the worker's only thread, which infers too."""
        self._model = load_model(self.settings.parameters.extra["threads"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One request, or the batch that MLServer has made of several."""
        answers = self._model.infer([b64decode(image) for image in payload.inputs[0].data.root])
        data = [b64encode(answer).decode() for answer in answers]
        output = ResponseOutput(name="output", datatype="BYTES", shape=[len(data), 1], data=data)
        return InferenceResponse(model_name=self.name, outputs=[output])
