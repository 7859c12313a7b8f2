"""Triton's extensions of the protocol: configuration, statistics and index of the models, as JSON documents.

Over gRPC the same documents become messages: their members are named as the fields.
"""

from __future__ import annotations

from typing import Any

from sponge_server.lifecycle import Lifecycle
from sponge_server.model_handle import ModelHandle
from sponge_server.model_state import ModelState
from sponge_server.observability.model_counts import ModelCounts, Spans
from sponge_server.protocol.oip import SERVER_NAME
from sponge_server.workers.interface import ModelInfo, TensorSpec

__all__ = ["EXTENSIONS", "config_document", "index_document", "statistics_document"]

Document = dict[str, Any]

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "deadlines",
    "model_configuration",
    "model_repository",
    "statistics",
)
"""Protocol extensions of this server, as clients name them."""


def config_document(info: ModelInfo) -> Document:
    """What clients need to make requests of their own: inputs, outputs, and the largest batch."""
    return {
        "name": info.name,
        "platform": info.platform,
        "backend": SERVER_NAME,
        "max_batch_size": info.max_batch if info.batched else 0,
        "input": [_tensor(spec) | ({"allow_ragged_batch": True} if spec.ragged else {}) for spec in info.inputs],
        "output": [_tensor(spec) for spec in info.outputs],
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
        "model_transaction_policy": {"decoupled": False},
    }


def statistics_document(model: ModelHandle, counts: ModelCounts) -> Document:
    """Counts and times since the start, of all versions; clients take the difference of two."""
    copied = Spans(counts.success.count)  # answers leave the lane in shared memory; their encoding is not measured
    return {
        "name": model.info.name,
        "version": model.version,
        "last_inference": round(counts.last * 1000),
        "inference_count": counts.rows,
        "execution_count": counts.batches,
        "inference_stats": {
            "success": _duration(counts.success),
            "fail": _duration(counts.fail),
            "queue": _duration(counts.queue),
            "compute_input": _duration(counts.hand_over),
            "compute_infer": _duration(counts.infer),
            "compute_output": _duration(copied),
            "cache_hit": _duration(Spans()),
            "cache_miss": _duration(Spans()),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(Spans(spans.count)),
                "compute_infer": _duration(spans),
                "compute_output": _duration(Spans(spans.count)),
            }
            for size, spans in sorted(counts.by_size.items())
        ],
    }


def index_document(lifecycle: Lifecycle, only_ready: bool) -> list[Document]:
    """The versions of all models: those that serve, come or go, and the last one that could not be loaded.

    `only_ready`: those that take requests.
    """
    found = [entry for name in lifecycle.models for entry in _versions(name, lifecycle.states[name], lifecycle)]
    return [entry for entry in found if entry["state"] == "READY" or not only_ready]


def _versions(name: str, state: ModelState, lifecycle: Lifecycle) -> list[Document]:
    entries: list[tuple[str, str, str]] = []
    if state.serving is not None:
        ready = lifecycle.ready
        entries.append((state.serving, *(("READY", "") if ready else ("UNAVAILABLE", lifecycle.not_ready().detail))))
    if state.ending is not None:
        entries.append((state.ending, "UNLOADING", "it answers the requests that came for it"))
    elif state.serving is None:
        entries.append((state.last, "UNAVAILABLE", "unloaded"))
    if state.loading is not None:
        entries.append((state.loading, "LOADING", ""))
    if state.failed is not None:
        entries.append((state.failed.version, "UNAVAILABLE", state.failed.why))
    return [{"name": name, "version": version, "state": at, "reason": why} for version, at, why in entries]


def _tensor(spec: TensorSpec) -> Document:
    return {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": list(spec.shape)}


def _duration(spans: Spans) -> Document:
    return {"count": spans.count, "ns": round(spans.seconds * 1e9)}
