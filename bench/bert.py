"""A small BERT with random weights: `python://bench.bert:sized`, run from the project's folder.

6 layers, 384 wide, 12 heads; token ids from 1, 0 fills up. `blind` is the same model without a declared size.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import TensorSpec
from sponge_server.workers.row_size import RowSize

__all__ = ["blind", "sized"]

SHORTEST, LONGEST = 8, 400
VOCABULARY = 30_522
LAYERS, WIDTH, HEADS = 6, 384, 12


class Layer(nn.Module):  # type: ignore[misc]
    """Attention and a feed-forward part, each with its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`mask`: which tokens count, [batch, 1, 1, tokens]; None: all."""
        batch, tokens, _ = x.shape
        parts = self.attend(x).view(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask)
        x = self.first(x + self.out(seen.transpose(1, 2).reshape(batch, tokens, WIDTH)))
        return self.second(x + self.narrow(nn.functional.gelu(self.wide(x))))


class Bert(nn.Module):  # type: ignore[misc]
    """Two scores for each text."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """`ids`: [batch, tokens]."""
        real = ids != 0
        mask = None if bool(real.all()) else real[:, None, None, :]
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x[:, 0])


def blind() -> LoadedModel:
    """The model, as one whose rows all cost the same."""
    torch.manual_seed(0)
    return LoadedModel(
        Bert().eval(),
        (TensorSpec("ids", "INT64", (-1,)),),
        "pytorch_eager",
        warning="it has random weights, so its answers are meaningless",
    )


def sized() -> LoadedModel:
    """The model with its size."""
    return replace(blind(), size=RowSize("ids", most=LONGEST, least=SHORTEST, pad=0))
