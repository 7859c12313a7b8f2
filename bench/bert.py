"""The small BERT with two scores for each text: `python://bench.bert:sized`, run from the project's folder.

`blind` is the same model without a declared size.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from bench.bert_encoder import seeded
from bench.bert_sizes import LONGEST, SHORTEST, WIDTH
from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import TensorSpec
from sponge_server.workers.row_size import RowSize

__all__ = ["blind", "sized"]


class Scored(nn.Module):  # type: ignore[misc]
    """Two scores for each text."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = seeded()
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """`ids`: [batch, tokens]."""
        return self.head(self.bert(ids))


def blind() -> LoadedModel:
    """The model, as one whose rows all cost the same."""
    return LoadedModel(
        Scored().eval(),
        (TensorSpec("ids", "INT64", (-1,)),),
        "pytorch_eager",
        warning="it has random weights, so its answers are meaningless",
    )


def sized() -> LoadedModel:
    """The model with its size."""
    return replace(blind(), size=RowSize("ids", most=LONGEST, least=SHORTEST, pad=0))
