"""`digits://`: handwritten digits, a real model trained on this machine in seconds from data of scikit-learn.

It is for demos and tests without a network. Training runs in a separate process, because the fork server must stay at
one thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from sponge_core.errors import needs_extra
from sponge_server.models.exported import Sidecar, SidecarImage, load_file, put_in_place, sidecar_path
from sponge_server.models.loaded import LoadedModel
from sponge_server.models.source import Source
from sponge_server.workers.interface import ModelError
from sponge_system.cache_folder import models_folder

__all__ = ["build", "cached", "load"]

_SEED = 7
_EPOCHS = 20
_BATCH = 64
_TEST_SHARE = 0.25
_FULL_INK = 16.0  # the data's pixels run from 0 to 16
_BUILD_TIMEOUT_S = 300.0


def load(source: Source) -> LoadedModel:
    """The cached model, built if missing. Raises ModelError when it cannot be built."""
    source.only()
    if source.target.strip("/"):
        raise ModelError(f"model source '{source.url}': digits:// takes nothing after the slashes")
    return load_file(cached())


def cached() -> Path:
    """Path of the model in the user's cache, built in a separate process if missing. Raises ModelError.

    Where that cache is read-only, as in a pod of the local cluster, a missing model is built in a temporary folder.
    """
    # A program saved by one version of torch may not load in another.
    path = models_folder() / f"digits-torch{torch.__version__.split('+')[0]}.pt2"
    if path.is_file() and sidecar_path(path).is_file():
        return path
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        path = Path(tempfile.mkdtemp(prefix="sponge-")) / path.name
    command = [sys.executable, "-m", "sponge_server.models.digits", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(f"training the digits model took more than {_BUILD_TIMEOUT_S:g} s: give it more CPU") from None
    if done.returncode != 0:
        cause = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ModelError(f"the digits model cannot be built: {cause}")
    return path


def build(path: Path) -> float:
    """Trains, exports to `path` with its sidecar, and returns the accuracy on the held-out quarter.

    Raises:
        ModelError: scikit-learn is not installed, or `path` cannot be written.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise ModelError(needs_extra("digits://", "scikit-learn", "samples")) from None
    torch.manual_seed(_SEED)
    data = load_digits()
    pixels = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / _FULL_INK
    labels = torch.tensor(data.target, dtype=torch.int64)
    train, test = train_test_split(range(len(labels)), test_size=_TEST_SHARE, random_state=_SEED, stratify=data.target)
    network = _network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    order = torch.tensor(train)
    for _ in range(_EPOCHS):
        for rows in order[torch.randperm(len(order))].split(_BATCH):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(pixels[rows]), labels[rows]).backward()
            optimiser.step()
    network.eval()
    with torch.inference_mode():
        accuracy = float((network(pixels[test]).argmax(1) == labels[test]).float().mean())
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (pixels[:2],), dynamic_shapes=({0: batch},))
    sidecar = Sidecar(
        inputs=("input",),
        outputs=("logits",),
        labels=tuple(str(digit) for digit in range(10)),
        image=SidecarImage(mode="L", crop=(8, 8), mean=(0.0,), std=(1.0,)),
        accuracy=round(accuracy, 4),
    )
    _write(path, program, sidecar)
    return accuracy


def _network() -> torch.nn.Sequential:
    nn = torch.nn
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def _write(path: Path, program: torch.export.ExportedProgram, sidecar: Sidecar) -> None:
    """Writes both files or neither, also when two processes build at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            half = Path(scratch) / path.name
            torch.export.save(program, half)
            put_in_place(half, sidecar, path)
    except OSError as error:
        raise ModelError(f"cannot write the digits model to {path.parent}: {error.strerror}") from None


if __name__ == "__main__":
    torch.set_num_threads(1)  # the network is too small to benefit from more threads
    print(f"accuracy {build(Path(sys.argv[1])):.4f}")
