"""Sponge's own server, as `sponge serve` starts it: one configuration for every load, nothing tuned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.serving.shared import INPUT_SHAPE, Logits
from bench.serving.systems.interface import Knobs, Launch, System, Wire
from sponge_client.errors import ServerError
from sponge_client.oip import HEADER_LENGTH, Tensor, decode, encode
from sponge_core.control_api import SizeRange

__all__ = ["ResizableSponge", "Sponge"]

MODEL = "resnet18"
SOURCE = "python://bench.serving.sponge_model:resnet18"


class Sponge(System):
    """Has no knobs: the requests bring their deadlines, and the rest is the server's own decision."""

    name = "sponge"
    defaults: Knobs = {}  # noqa: RUF012 - a mapping that nobody writes
    ready_path = f"/v2/models/{MODEL}/ready"
    sent_at = "x-sponge-sent-at"

    def candidates(self, cores: float) -> list[Knobs]:
        return [self.defaults]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        options = {"--model": f"{MODEL}={SOURCE}", "--http-port": str(port), "--grpc-port": "0"}
        options |= self.sized(cores)
        serve = (str(python), "-m", "sponge_cli.main", "serve")
        return Launch((*serve, *(word for pair in options.items() for word in pair)))

    def sized(self, cores: float) -> dict[str, str]:
        """The options that say how large it is, and who may change that."""
        return {"--control-port": "0", "--cores": f"{cores:g}", "--step-cores": "500m"}

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        head = encode([Tensor("input", "FP32", (1, *INPUT_SHAPE), body)])
        headers = {
            "Content-Type": "application/octet-stream",
            HEADER_LENGTH: str(head.header_length),
            "x-sponge-slo-ms": f"{slo_s * 1000:.3f}",
        }
        return Wire("POST", f"/v2/models/{MODEL}/infer", headers, (head.data[: head.header_length], body))

    def logits(self, headers: Mapping[str, str], body: bytes) -> Logits:
        try:
            logits: Logits = decode(headers, body)["output"].reshape(-1)
        except (ServerError, KeyError) as error:
            raise ValueError(str(error)) from None
        return logits


class ResizableSponge(Sponge):
    """Sponge with its control endpoints open, for the operator's decision to size it.

    Args:
        token_file: holds the bearer token of the control endpoints.
    """

    def __init__(self, control_port: int, token_file: Path, sizes: SizeRange) -> None:
        self.control_port = control_port
        self._token_file = token_file
        self._sizes = sizes

    def sized(self, cores: float) -> dict[str, str]:
        return {
            "--control-port": str(self.control_port),
            "--control-token-file": str(self._token_file),
            "--cores": f"{cores:g}",
            "--min-cores": f"{self._sizes.min_milli}m",
            "--max-cores": f"{self._sizes.max_milli}m",
            "--step-cores": f"{self._sizes.step_milli}m",
        }
