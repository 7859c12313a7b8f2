"""Answers in the binary form of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Mapping

from bench.serving.shared import Outputs
from sponge_client.errors import ServerError
from sponge_client.oip import decode

__all__ = ["binary_outputs"]


def binary_outputs(headers: Mapping[str, str], body: bytes) -> Outputs:
    """The tensor `output` of an answer. Raises ValueError where there is none."""
    try:
        outputs: Outputs = decode(headers, body)["output"].reshape(-1)
    except (ServerError, KeyError) as error:
        raise ValueError(str(error)) from None
    return outputs
