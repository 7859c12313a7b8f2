"""The model as one of Triton's Python backend, and the start of Triton from pytriton's package.

Triton imports this module in each instance's process; as a script it becomes tritonserver. Runs in pytriton's own
environment.
"""

from __future__ import annotations

import json
import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """The model in one instance's process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Once, before the first batch."""
        from bench.serving.model import load_model

        config = json.loads(args["model_config"])
        self._input = config["input"][0]["name"]
        self._model = load_model(int(config["parameters"]["threads"]["string_value"]))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One batch: Triton passes the requests that it has put together."""
        import numpy as np
        import triton_python_backend_utils as backend  # Triton's own, in this process alone

        inputs = [backend.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        rows = self._model.run(np.concatenate(inputs))
        return [backend.InferenceResponse([backend.Tensor("output", row[None])]) for row in rows]


def main() -> None:
    """Becomes tritonserver, with the given arguments and the Python backend of this environment's Python version."""
    packages = Path(site.getsitepackages()[0])
    triton = packages / "pytriton" / "tritonserver"
    backend = Path("backends/python")
    backend.mkdir(parents=True)
    stub = triton / "python_backend_stubs" / sysconfig.get_python_version() / "triton_python_backend_stub"
    for file in (*(triton / "backends" / "python").iterdir(), stub):
        (backend / file.name).symlink_to(file)
    # the stub links libpython: this Python's, not one that the system may have in another patch version
    libraries = f"{sysconfig.get_config_var('LIBDIR')}:{packages / 'nvidia_pytriton.libs'}"
    environment = os.environ | {
        "LD_LIBRARY_PATH": libraries,
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }
    command = [str(triton / "bin" / "tritonserver"), f"--backend-directory={backend.parent.resolve()}", *sys.argv[1:]]
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
