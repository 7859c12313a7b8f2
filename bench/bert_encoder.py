"""A small BERT in torch alone, as peers' environments have it: 6 layers, 384 wide, 12 heads, seeded random weights.

Its weights have the shapes and the order of operations of `transformers.BertModel`, so that a server of Hugging Face
folders can serve the same ones. Token ids are from 1; 0 fills up.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from bench.bert_sizes import HEADS, LAYERS, LONGEST, NORM_EPS, VOCABULARY, WIDTH

__all__ = ["Bert", "hugging_face_weights", "seeded"]


class Layer(nn.Module):  # type: ignore[misc]
    """Attention and a feed-forward part, each with its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.first, self.second = (nn.LayerNorm(WIDTH, NORM_EPS) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`mask`: which tokens count, [batch, 1, 1, tokens]; None: all."""
        batch, tokens, _ = x.shape
        parts = self.attend(x).view(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask)
        x = self.first(x + self.out(seen.transpose(1, 2).reshape(batch, tokens, WIDTH)))
        return self.second(x + self.narrow(gelu(self.wide(x))))


class Bert(nn.Module):  # type: ignore[misc]
    """The vector of each text's first token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, NORM_EPS)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """`ids`: [batch, tokens]; the answer: [batch, WIDTH]."""
        real = (ids != 0) | (torch.arange(ids.shape[1]) == 0)  # the first always: attention needs one
        whole = not torch.compiler.is_exporting() and bool(real.all())  # a trace is for filled-up rows, too
        return self.hidden(ids, None if whole else real)[:, 0]

    def hidden(self, ids: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Every token's vector, [batch, tokens, WIDTH]. `real`: which tokens count; None: all."""
        mask = None if real is None else real[:, None, None, :]
        x = self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1])))
        for layer in self.layers:
            x = layer(x, mask)
        return x


def seeded() -> Bert:
    """The same random weights everywhere, ready to infer."""
    torch.manual_seed(0)
    bert: Bert = Bert().eval()
    return bert


def hugging_face_weights(bert: Bert) -> dict[str, torch.Tensor]:
    """The same weights by the names of `transformers.BertModel`, without its pooler."""
    parts: dict[str, nn.Module] = {
        "embeddings.word_embeddings": bert.words,
        "embeddings.position_embeddings": bert.places,
        "embeddings.LayerNorm": bert.norm,
    }
    found = {"embeddings.token_type_embeddings.weight": torch.zeros(1, WIDTH)}
    for number, layer in enumerate(bert.layers):
        at = f"encoder.layer.{number}"
        parts |= {
            f"{at}.attention.output.dense": layer.out,
            f"{at}.attention.output.LayerNorm": layer.first,
            f"{at}.intermediate.dense": layer.wide,
            f"{at}.output.dense": layer.narrow,
            f"{at}.output.LayerNorm": layer.second,
        }
        for name, values in layer.attend.state_dict().items():
            for which, part in zip(("query", "key", "value"), values.chunk(3), strict=True):
                found[f"{at}.attention.self.{which}.{name}"] = part.clone()
    for name, part in parts.items():
        found |= {f"{name}.{kind}": values.clone() for kind, values in part.state_dict().items()}
    return found
