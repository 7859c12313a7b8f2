"""Triton's extensions of the protocol: configuration, statistics and index of the models, as JSON documents.

Over gRPC the same documents become messages: their members are named as the fields.
"""

from __future__ import annotations

from typing import Any

from sponge_server.lifecycle import Lifecycle
from sponge_server.observability.model_counts import ModelCounts, Spans
from sponge_server.protocol.oip import MODEL_VERSION, SERVER_NAME
from sponge_server.workers.interface import ModelInfo, TensorSpec

__all__ = ["config_document", "index_document", "statistics_document"]

Document = dict[str, Any]


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


def statistics_document(name: str, counts: ModelCounts) -> Document:
    """Counts and times since the start; clients take the difference of two."""
    copied = Spans(counts.success.count)  # answers leave the lane in shared memory; their encoding is not measured
    return {
        "name": name,
        "version": MODEL_VERSION,
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
    """The models of the server, or those that are ready."""
    if lifecycle.ready:
        state, reason = "READY", ""
    elif only_ready:
        return []
    else:
        state, reason = "UNAVAILABLE", lifecycle.not_ready().detail
    return [{"name": name, "version": MODEL_VERSION, "state": state, "reason": reason} for name in lifecycle.models]


def _tensor(spec: TensorSpec) -> Document:
    return {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": list(spec.shape)}


def _duration(spans: Spans) -> Document:
    return {"count": spans.count, "ns": round(spans.seconds * 1e9)}
