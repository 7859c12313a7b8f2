"""The BERT as a folder of Hugging Face, for servers of such folders: weights, tokenizer, pooling, and ONNX beside them.

The tokenizer knows the word `w17` as the token 17, so that a text of words has exactly the tokens of the other systems.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from bench.bert_encoder import Bert, hugging_face_weights
from bench.bert_sizes import HEADS, LAYERS, LONGEST, NORM_EPS, VOCABULARY, WIDTH

__all__ = ["write_folder"]

CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "layer_norm_eps": NORM_EPS,
    "max_position_embeddings": LONGEST,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 0,
    "torch_dtype": "float32",
    "type_vocab_size": 1,
    "vocab_size": VOCABULARY,
}
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": LONGEST,
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
}
POOLING = {"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MODULES = [
    {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for idx, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")))
]


def write_folder(folder: Path, bert: Bert) -> None:
    """Writes the folder unless it is there."""
    if folder.exists():
        return
    making = folder.with_suffix(".new")
    (making / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (making / "onnx").mkdir(exist_ok=True)
    save_file(hugging_face_weights(bert), making / "model.safetensors", metadata={"format": "pt"})
    for name, content in (
        ("config.json", CONFIG),
        ("tokenizer_config.json", TOKENIZER),
        ("modules.json", MODULES),
        ("1_Pooling/config.json", POOLING),
    ):
        (making / name).write_text(json.dumps(content, indent=1))
    known = {"[PAD]": 0, **{f"w{number}": number for number in range(1, VOCABULARY - 1)}, "[UNK]": VOCABULARY - 1}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(making / "tokenizer.json"))
    _write_onnx(making / "onnx" / "model.onnx", bert)
    making.rename(folder)


class _Hidden(torch.nn.Module):  # type: ignore[misc]
    """With the names of inputs that servers of such folders expect."""

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Every token's vector."""
        return self.bert.hidden(input_ids, attention_mask != 0)


def _write_onnx(path: Path, bert: Bert) -> None:
    ids, mask = (torch.ones(2, 7, dtype=torch.int64) for _ in range(2))  # one tensor would become one input
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("tokens", min=2, max=LONGEST)}
    with torch.no_grad():
        program = torch.export.export(_Hidden(bert), (ids, mask), dynamic_shapes=(sizes, sizes))
    names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["last_hidden_state"]}
    torch.onnx.export(program, dynamo=True, verbose=False, **names).save(str(path))
