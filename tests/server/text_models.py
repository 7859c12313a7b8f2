"""Models of strings, for `python://text_models:NAME`."""

from __future__ import annotations

from typing import Any

import numpy as np

from sponge_server.model import Input, InputError, Model


class Shouting(Model):
    """Answers each text in capitals, with its length, both backwards and in pairs."""

    inputs = (Input("text", "BYTES", ()), Input("times", "INT64", (1,)))

    def predict(self, batch: dict[str, Any]) -> dict[str, Any]:
        texts = [text.decode("utf-8", "replace") for text in batch["text"]]
        if "" in texts:
            raise InputError("an empty text says nothing")
        times = batch["times"][:, 0]
        return {
            "loud": [text.upper() * int(n) for text, n in zip(texts, times, strict=True)],
            "length": np.array([len(text) for text in texts], np.int32),
            "raw": np.array([bytes(reversed(text)) for text in batch["text"]], object),
        }
