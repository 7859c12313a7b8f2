"""Infinity: a server of embeddings from a folder of Hugging Face. Batches by length; bounds its queue; no deadlines."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench.serving.shared import Outputs
from bench.serving.systems.interface import Knobs, Launch, System, Wire

__all__ = ["Infinity"]


class Infinity(System):
    """Knobs.

    `engine` (torch, or ONNX Runtime as `optimum`, which takes all cores whatever `threads` says); `threads` of torch;
    `batch_size`; `queue` (requests that wait at most; 429 beyond); `lengths` (1: sorts by tokens, 0: by characters).
    There is one replica: with two, its pool of threads is too small on a machine of 2 cores, and nothing is answered.
    """

    name = "infinity"
    packages = (
        "infinity-emb[optimum,server,torch]==0.0.77",
        # what this version runs with; newer ones of these fail at its import
        "optimum==1.24.0",
        "transformers==4.48.3",
        "click==8.1.8",
        "pandas==2.3.3",
        "pyarrow==19.0.1",
    )
    ready_path = "/health"
    defaults: Knobs = {  # noqa: RUF012 - a mapping that nobody writes
        "engine": "torch",
        "threads": 2,
        "batch_size": 32,
        "queue": 32_000,
        "lengths": 0,
    }

    def candidates(self, cores: float) -> list[Knobs]:
        tries = [
            ("optimum", 2, 1, 4, 0),
            ("optimum", 2, 4, 8, 0),
            ("optimum", 2, 1, 8, 0),
            ("optimum", 2, 2, 4, 0),
            ("torch", 2, 1, 4, 0),
            ("torch", 2, 4, 8, 0),
            ("optimum", 2, 8, 16, 0),
            ("optimum", 2, 4, 8, 1),
        ]
        return [dict(zip(self.defaults, values, strict=True)) for values in tries]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        settings = {
            "model_id": str(self.workload.file("-hf")),
            "served_model_name": self.workload.name,
            "engine": knobs["engine"],
            "device": "cpu",
            "dtype": "float32",
            "pooling_method": "cls",
            "batch_size": str(knobs["batch_size"]),
            "queue_size": str(knobs["queue"]),
            "lengths_via_tokenize": str(bool(knobs["lengths"])).lower(),
            "bettertransformer": "false",  # it fails with this torch
            "model_warmup": "false",  # would run its largest batches of the longest texts for half a minute
            "host": "127.0.0.1",
            "port": str(port),
            "log_level": "warning",
            "anonymous_usage_stats": "false",
        }
        environment = {f"INFINITY_{name.upper()}": value for name, value in settings.items()}
        environment |= {"OMP_NUM_THREADS": str(knobs["threads"]), "HF_HUB_OFFLINE": "1", "HF_HOME": "hf"}
        return Launch((str(python.with_name("infinity_emb")), "v2"), environment)

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        return Wire(
            "POST", "/embeddings", {"Content-Type": "application/json"}, (_text_json(body, self.workload.name),)
        )

    def outputs(self, headers: Mapping[str, str], body: bytes) -> Outputs:
        try:
            outputs: Outputs = np.frombuffer(b64decode(json.loads(body)["data"][0]["embedding"]), "<f4")
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"no base64 in the first embedding: {error!r}") from None
        return outputs


@lru_cache(maxsize=512)
def _text_json(body: bytes, model: str) -> bytes:
    """The text whose tokens these are; see `bench.serving.hf_folder`."""
    text = " ".join(f"w{token}" for token in np.frombuffer(body, "<i8").tolist())
    return json.dumps({"model": model, "input": [text], "encoding_format": "base64"}).encode()
