"""The endpoint picker protocol of the Gateway API Inference Extension: its names, and a picker's answers.

A gateway asks by Envoy's external processing protocol, and may send it bodies and trailers too, which go back as they
are. Pure.
"""

from __future__ import annotations

from typing import Final

from sponge_core.addresses import host_of
from sponge_front.protos import ext_proc_pb2 as pb

__all__ = [
    "DESTINATION",
    "METADATA",
    "UPSTREAM_ADDRESS",
    "answered_by",
    "hosts_of",
    "passed_on",
    "sent_to",
    "unavailable",
]

DESTINATION: Final = "x-gateway-destination-endpoint"
"""Header and metadata key of the chosen pod, as a picker tells it."""

METADATA: Final = "envoy.lb"
"""Namespace of that metadata key."""

UPSTREAM_ADDRESS: Final = "upstream.address"
"""Attribute with the address of the pod that has answered."""

SUBSET_METADATA: Final = "envoy.lb.subset_hint"
SUBSET: Final = "x-gateway-destination-endpoint-subset"
"""Namespace and key of the pods that a gateway lets a picker choose from."""

SERVED: Final = "x-gateway-destination-endpoint-served"
"""Key of the pod that has answered, as a gateway tells it under `METADATA`."""

_OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_UNAVAILABLE, _GRPC_UNAVAILABLE = 503, 14


def hosts_of(message: pb.ProcessingRequest) -> frozenset[str] | None:
    """The addresses, without ports, of the pods that a gateway lets the picker choose from; None: all."""
    fields = message.metadata_context.filter_metadata[SUBSET_METADATA].fields
    if SUBSET not in fields:
        return None
    return frozenset(host_of(each.string_value) for each in fields[SUBSET].list_value.values)


def answered_by(message: pb.ProcessingRequest) -> str | None:
    """The address of the pod that a response is from; None: nobody says."""
    served = message.metadata_context.filter_metadata[METADATA].fields
    if SERVED in served:
        return served[SERVED].string_value
    for struct in message.attributes.values():
        if UPSTREAM_ADDRESS in struct.fields:
            return struct.fields[UPSTREAM_ADDRESS].string_value
    return None


def sent_to(address: str, **headers: str) -> pb.ProcessingResponse:
    """Sends a request to a pod, with further headers; `_` in their names stands for `-`."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    mutation = pb.HeaderMutation(
        set_headers=[
            pb.HeaderValueOption(header=pb.HeaderValue(key=name, raw_value=value.encode()), append_action=_OVERWRITE)
            for name, value in {DESTINATION: address, **more}.items()
        ]
    )
    destination = pb.Struct(fields={DESTINATION: pb.Value(string_value=address)})
    return pb.ProcessingResponse(
        request_headers=pb.HeadersResponse(response=pb.CommonResponse(header_mutation=mutation)),
        dynamic_metadata=pb.Struct(fields={METADATA: pb.Value(struct_value=destination)}),
    )


def unavailable(*, grpc: bool) -> pb.ProcessingResponse:
    """Answers a request for which there is no pod."""
    text = "no pod of the service can take the request now"
    status = pb.GrpcStatus(status=_GRPC_UNAVAILABLE) if grpc else None
    answer = pb.ImmediateResponse(
        status=pb.HttpStatus(code=_UNAVAILABLE), body=text.encode(), grpc_status=status, details="no_pod"
    )
    return pb.ProcessingResponse(immediate_response=answer)


def passed_on(message: pb.ProcessingRequest, config: pb.ProtocolConfiguration) -> pb.ProcessingResponse:
    """Lets a part of a request or response pass as it is; `config` came with the first message of the stream."""
    match message.WhichOneof("request"):
        case "request_headers":
            return pb.ProcessingResponse(request_headers=pb.HeadersResponse())
        case "request_body":
            body = _same(message.request_body, config.request_body_mode)
            return pb.ProcessingResponse(request_body=body)
        case "response_body":
            body = _same(message.response_body, config.response_body_mode)
            return pb.ProcessingResponse(response_body=body)
        case "request_trailers":
            return pb.ProcessingResponse(request_trailers=pb.TrailersResponse())
        case "response_trailers":
            return pb.ProcessingResponse(response_trailers=pb.TrailersResponse())
        case _:
            return pb.ProcessingResponse(response_headers=pb.HeadersResponse())


def _same(part: pb.HttpBody, mode: pb.BodySendMode) -> pb.BodyResponse:
    if mode != pb.FULL_DUPLEX_STREAMED:
        return pb.BodyResponse()
    # The gateway keeps nothing of it in this mode.
    streamed = pb.StreamedBodyResponse(body=part.body, end_of_stream=part.end_of_stream)
    return pb.BodyResponse(response=pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=streamed)))
