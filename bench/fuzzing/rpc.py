"""Malformed calls of the protocol's gRPC form: methods, messages and metadata. Pure: a seed in, bytes out."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

from bench.fuzzing.http import DEADLINE_HEADERS, HEADER_VALUES, Target
from sponge_server.protos import inference_pb2 as pb

__all__ = ["Call", "good_call", "malformed_call"]

SERVICE = "inference.GRPCInferenceService"
METHODS = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer", "Nope")
OTHERS = ("grpc.health.v1.Health/Check", "grpc.health.v1.Health/List")


@dataclass(frozen=True, slots=True)
class Call:
    """One unary call."""

    method: str
    message: bytes
    metadata: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 5.0


def good_call(target: Target) -> Call:
    """One that has to be answered with OK."""
    return Call(f"/{SERVICE}/ModelInfer", _message(target).SerializeToString())


def malformed_call(rng: random.Random, target: Target) -> Call:
    """One that is wrong in some way, or at least odd."""
    method = "ModelInfer" if rng.random() < 0.75 else rng.choice(METHODS)
    if rng.random() < 0.03:
        # The library's own services do not survive garbage any better than the library.
        return Call(f"/{rng.choice(OTHERS)}", b"\x0a\x01x")
    raw = (
        _odd(rng, target).SerializeToString()
        if method == "ModelInfer"
        else pb.ModelReadyRequest(name="x").SerializeToString()
    )
    dice = rng.random()
    if dice < 0.15:
        raw = raw[: rng.randrange(len(raw))]
    elif dice < 0.35:
        changed = bytearray(raw)
        for _ in range(rng.randint(1, 6)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        raw = bytes(changed)
    elif dice < 0.45:
        raw = rng.randbytes(rng.randint(0, 2000))
    elif dice < 0.5:
        raw = b"\x0b" * rng.choice((10, 200, 20_000))  # groups within groups
    names = [name for name in DEADLINE_HEADERS if not name.startswith("grpc-")]
    texts = [value.decode("latin-1") for value in HEADER_VALUES if value.isascii() and value.decode().isprintable()]
    count = rng.choice((0, 0, 1, 2))
    metadata = tuple((rng.choice(names[:5]), rng.choice(texts)) for _ in range(count))
    return Call(f"/{SERVICE}/{method}", raw, metadata, rng.choice((5.0, 5.0, 0.5, 0.05, 0.001)))


def _message(target: Target) -> pb.ModelInferRequest:
    entry = {"name": target.tensor, "datatype": "FP32", "shape": target.shape}
    data = struct.pack(f"<{target.elements}f", *[0.5] * target.elements)
    return pb.ModelInferRequest(model_name=target.model, inputs=[entry], raw_input_contents=[data])


def _odd(rng: random.Random, target: Target) -> pb.ModelInferRequest:
    message = _message(target)
    item = message.inputs[0]
    for _ in range(rng.randint(0, 3)):
        match rng.randrange(10):
            case 0:
                message.model_name = rng.choice(("", "nope", "é", "x" * 5000, "\0"))
            case 1:
                message.model_version = rng.choice(("1", "2", "latest", "\n"))
            case 2:
                item.datatype = rng.choice(("", "FP16", "BF16", "BYTES", "BOOL", "INT64", "UINT64", "fp32", "x" * 3000))
            case 3:
                del item.shape[:]
                item.shape.extend(rng.choice(([], [-1], [0], [1, 64], [2**62, 2**62], [1] * 500, [2**63 - 1])))
            case 4:
                message.raw_input_contents[:] = [rng.randbytes(rng.choice((0, 1, 255, 257, 5000)))]
            case 5:
                message.raw_input_contents.append(b"")
            case 6:
                item.contents.fp32_contents.extend([float("nan"), float("inf")] * rng.choice((1, 32)))
                if rng.random() < 0.7:
                    del message.raw_input_contents[:]
            case 7:
                name = rng.choice(("timeout", "priority", "sequence_id", ""))
                parameter = message.parameters[name]
                kind = rng.choice(("int64_param", "string_param", "double_param", "bool_param", "uint64_param"))
                value = {"string_param": "soon", "double_param": rng.choice((float("nan"), -1.0, 1e300))}.get(
                    kind, rng.choice((0, 1))
                )
                setattr(parameter, kind, value)
            case 8:
                asked = message.outputs.add(name=rng.choice(("", "nope", target.output)))
                asked.parameters["classification"].int64_param = rng.choice((0, 1, -1, 10**9))
            case 9:
                message.inputs.append(item)
    if rng.random() < 0.15:
        del message.raw_input_contents[:]
        item.datatype = "BYTES"
        del item.shape[:]
        item.shape.append(1)
        item.contents.bytes_contents.append(target.image[: rng.choice((0, 20, len(target.image)))])
    return message
