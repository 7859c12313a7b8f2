"""The model that every system serves: ResNet-18, float32, seeded random weights, channels_last, in inference mode.

Peers' servers import this module in their own environments, so it needs only torch, torchvision and numpy.

    python -m bench.serving.model      # makes the weights and the reference answers
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torchvision

from bench.serving.shared import CACHE, INPUT_SHAPE, REFERENCE, WEIGHTS, Logits, input_bodies

__all__ = ["infer", "infer_tensor", "load_model", "main"]


def load_model(threads: int) -> torch.nn.Module:
    """The model, ready to run on `threads` threads of the calling thread's process.

    torch keeps the thread count per calling thread: an inference thread that is not this one calls
    `torch.set_num_threads` itself, before its first forward.
    """
    torch.set_num_threads(threads)
    model = torchvision.models.resnet18(weights=None)
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return model.eval().to(memory_format=torch.channels_last)


def infer(model: torch.nn.Module, bodies: Sequence[bytes]) -> list[bytes]:
    """One batch: raw tensors in, raw float32 logits out, in the same order."""
    joined = bytearray().join(bodies)  # a bytearray, as torch warns of memory that it may not write
    batch = torch.frombuffer(joined, dtype=torch.float32).reshape(len(bodies), *INPUT_SHAPE)
    return [row.tobytes() for row in infer_tensor(model, batch)]


def infer_tensor(model: torch.nn.Module, batch: torch.Tensor) -> Logits:
    """One batch of shape (b, 3, 224, 224)."""
    with torch.inference_mode():
        logits: Logits = model(batch.contiguous(memory_format=torch.channels_last)).numpy()
    return logits


def main() -> None:
    """Writes the weights and the reference answers that are missing."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not WEIGHTS.exists():
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18(weights=None).state_dict(), WEIGHTS)
    if not REFERENCE.exists():
        model = load_model(1)
        np.save(REFERENCE, np.stack([np.frombuffer(infer(model, [body])[0], "<f4") for body in input_bodies()]))


if __name__ == "__main__":
    main()
