"""Folders of Hugging Face with tiny random networks and a tokenizer that is trained here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TEXTS = ["the quick brown fox", "a dog", "jumps over the lazy dog and the dog does not mind at all"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert_folder(path: Path, kind: str, labels: tuple[str, ...] = ("no", "yes"), **config: Any) -> Path:
    """A BERT of the class `kind` of transformers, in a new folder."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(len(kind))
    sizes = {"vocab_size": 120, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 32}
    named = dict(enumerate(labels))
    made = transformers.BertConfig(**sizes, id2label=named, label2id={v: k for k, v in named.items()}, **config)
    getattr(transformers, kind)(made).eval().save_pretrained(path)
    tokenizer_file(path / "tokenizer.json")
    return path


def tokenizer_file(path: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path))


def image_folder(path: Path) -> Path:
    """A vision transformer for images of 16 x 16."""
    import torch
    import transformers

    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    labels = {0: "cat", 1: "dog", 2: "none"}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, id2label=labels)
    transformers.ViTForImageClassification(config).eval().save_pretrained(path)
    process = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3}
    (path / "preprocessor_config.json").write_text(json.dumps(process))
    return path
