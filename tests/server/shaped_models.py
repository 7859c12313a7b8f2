"""Models whose inputs or outputs are not one tensor of rows, for `python://shaped_models:NAME`."""

from __future__ import annotations

from typing import Any

import numpy as np

from sponge_server.model import Input, InputError, Model, Output


class Finder(Model):
    """Finds as many boxes in an image as its first pixel is bright."""

    inputs = (Input("image", "UINT8", (-1, -1, 3), ragged=True),)
    outputs = (
        Output("boxes", "FP32", (-1, 4), ragged=True),
        Output("label", "BYTES", (-1,), ragged=True),
        "size",
    )
    image = "RGB"

    def predict(self, batch: dict[str, Any]) -> dict[str, Any]:
        images = batch["image"]
        assert isinstance(images, list)
        counts = [int(image[0, 0, 0]) for image in images]
        if 13 in counts:
            raise InputError("13 is unlucky")
        return {
            "size": np.array([image.shape[:2] for image in images]),
            "label": [[f"box {number}" for number in range(count)] for count in counts],
            "boxes": [
                [[number, 0, *image.shape[:2]] for number in range(n)] for n, image in zip(counts, images, strict=True)
            ],
        }


class Counted(Model):
    """Sums up each row, and tells how many rows it got at once."""

    inputs = (Input("x", "FP32", (-1, 2), ragged=True), Input("text", "BYTES", (-1,), ragged=True))

    def predict(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = len(batch["x"])
        return {
            "sum": [float(x.sum()) for x in batch["x"]],
            "texts": list(map(len, batch["text"])),
            "rows": [rows] * rows,
        }


class Scaled(Model):
    """Scales a table and sums it up: a request is one run."""

    inputs = (Input("table", "FP32", (-1, -1)), Input("by", "INT64", ()))
    outputs = (Output("scaled", "FP32", (-1, -1)), Output("total", "FP64", ()), "words")
    batch = False

    def predict(self, batch: dict[str, Any]) -> dict[str, Any]:
        scaled = batch["table"] * np.float32(batch["by"])
        return {"scaled": scaled, "total": scaled.sum(), "words": [f"{len(scaled)} rows"]}
