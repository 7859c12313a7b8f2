"""Sponge's own server, as `sponge serve` starts it: one configuration for every load, nothing tuned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.serving.shared import Outputs
from bench.serving.systems.interface import Knobs, Launch, System, Wire
from bench.serving.systems.oip import binary_outputs
from bench.serving.workloads import Served
from sponge_client.oip import HEADER_LENGTH, Tensor, encode
from sponge_core.control_api import SizeRange

__all__ = ["ResizableSponge", "SizeBlindSponge", "Sponge"]


class Sponge(System):
    """Has no knobs: the requests bring their deadlines, and the rest is the server's own decision."""

    name = "sponge"
    defaults: Knobs = {}  # noqa: RUF012 - a mapping that nobody writes
    sent_at = "x-sponge-sent-at"
    factory = ""
    """What follows the workload's name in the name of the model's factory."""

    @property
    def ready_path(self) -> str:  # type: ignore[override]
        return f"/v2/models/{self.workload.name}/ready"

    def candidates(self, cores: float) -> list[Knobs]:
        return [self.defaults]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        name = self.workload.name
        source = f"python://bench.serving.sponge_model:{name}{self.factory}?runtime={self.served.runtime}"
        options = {"--model": f"{name}={source}", "--http-port": str(port), "--grpc-port": "0"}
        options |= self.sized(cores)
        serve = (str(python), "-m", "sponge_cli.main", "serve")
        return Launch((*serve, *(word for pair in options.items() for word in pair)))

    def sized(self, cores: float) -> dict[str, str]:
        """The options that say how large it is, and who may change that."""
        return {"--control-port": "0", "--cores": f"{cores:g}", "--step-cores": "500m"}

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        workload = self.workload
        head = encode([Tensor(workload.input, workload.datatype, (1, *workload.shape_of(body)), body)])
        headers = {
            "Content-Type": "application/octet-stream",
            HEADER_LENGTH: str(head.header_length),
            "x-sponge-slo-ms": f"{slo_s * 1000:.3f}",
        }
        return Wire("POST", f"/v2/models/{workload.name}/infer", headers, (head.data[: head.header_length], body))

    def outputs(self, headers: Mapping[str, str], body: bytes) -> Outputs:
        return binary_outputs(headers, body)


class SizeBlindSponge(Sponge):
    """Sponge with a model that declares no size, so that all requests cost the same to it."""

    name = "sponge-blind"
    factory = "_blind"


class ResizableSponge(Sponge):
    """Sponge with its control endpoints open, for the operator's decision to size it.

    Args:
        token_file: holds the bearer token of the control endpoints.
    """

    def __init__(self, served: Served, control_port: int, token_file: Path, sizes: SizeRange) -> None:
        super().__init__(served)
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
