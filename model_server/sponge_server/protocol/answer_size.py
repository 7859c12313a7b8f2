"""Size of an answer before the model runs, so that its memory is taken first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sponge_server.bounds import NUMBER_BYTES
from sponge_server.protocol.oip import InferRequest, OutputRequest
from sponge_server.workers.interface import Tensor, TensorSpec, element_bytes

__all__ = ["answer_bytes"]

CLASS_BYTES = 128
"""Memory of one class in an answer: the text of its value, index and label, as an object and in the body."""


def answer_bytes(request: InferRequest, outputs: Sequence[Tensor | TensorSpec], rows: int) -> int:
    """Bytes of the outputs of `rows` rows and of the body made of them; a dimension of any size counts as 1.

    Args:
        outputs: the model's outputs: as described, or as they came.
    """
    asked = {ask.name: [one for one in request.outputs if one.name == ask.name] for ask in request.outputs}
    total = len(request.id)
    for output in outputs:
        shape = output.shape[1:] if isinstance(output, Tensor) else output.shape
        row = math.prod(max(1, size) for size in shape)
        # A ragged output that came has its own number of entries.
        count = math.prod(output.shape[:1]) if isinstance(output, Tensor) else rows
        raw = count * row * element_bytes(output.datatype)
        if output.datatype == "BYTES" and isinstance(output, Tensor):
            raw = len(output.data)
        total += raw
        for ask in asked.get(output.name, ()) if asked else (OutputRequest(output.name, request.binary),):
            if ask.top:
                total += count * min(ask.top, row) * CLASS_BYTES
            else:
                total += raw if ask.binary or output.datatype == "BYTES" else count * row * NUMBER_BYTES
    return total
