"""Text tasks with a folder of Hugging Face: strings in, and scores, labels, entities or embeddings out.

Tokenizer and post-processing run in the lane. The texts of a batch are padded to the longest of them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from sponge_core.errors import needs_extra
from sponge_server.models.loaded import LoadedModel, Staged
from sponge_server.workers.interface import ModelError, RefusedError, TensorSpec
from sponge_server.workers.row_size import RowSize

if TYPE_CHECKING:
    from sponge_server.models.hf import Folder
    from sponge_server.models.source import Source

__all__ = ["load_texts"]

_LONGEST = 8192
"""Tokens of a text where neither tokenizer nor network has a bound."""

_BYTES_OF_TOKEN = 4
"""Bytes of a token, about, in English. Batches correct what a token takes, for each octave of sizes apart."""

_LEAST_MEASURED, _MOST_MEASURED = 8, 512
"""Tokens of the shortest and longest text that are measured at the start."""

_LONGEST_EXAMPLE = 128
"""Tokens of the longest made-up text."""

_POOLINGS = ("mean", "cls", "last")

_TEXT = TensorSpec("text", "BYTES", ())
_QUERY = TensorSpec("query", "BYTES", ())


def load_texts(folder: Folder, task: str, source: Source) -> LoadedModel:
    """Loads a model of texts. Raises ModelError."""
    tokens = _Tokens(folder, _whole(source, "max_length"))
    pooling, normal = _pooling(folder, source)
    network = folder.network(task)
    tokens.fit(network)
    if task == "embeddings":
        return _model(network, "last_hidden_state", _embeddings(pooling, normal), (_TEXT,), tokens)
    if task == "rerank":
        if len(folder.labels) not in (0, 1):
            raise ModelError(f"'{folder.path}' has {len(folder.labels)} classes, a model for rerank has one score")
        return _model(network, "logits", _rerank, (_QUERY, _TEXT), tokens)
    if task == "token-classification":
        return _model(network, "logits", _entities(folder.labels), (_TEXT,), tokens)
    return _model(network, "logits", _classes(folder), (_TEXT,), tokens, folder.labels or None)


def _model(
    network: Any,
    output: str,
    finish: Finish,
    inputs: tuple[TensorSpec, ...],
    tokens: _Tokens,
    labels: tuple[str, ...] | None = None,
) -> LoadedModel:
    of_tensors = LoadedModel(
        _Network(network, tokens.names, output),
        tuple(TensorSpec(name, "INT64", (-1,)) for name in tokens.names),
        "transformers",
        examples=lambda rows: tokens.examples(rows, len(inputs)),
    )
    stages = _Texts(of_tensors, tokens, finish)
    return LoadedModel(stages, inputs, "transformers", labels=labels, size=tokens.size())


class _Network(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """The network alone: its inputs by place, and one output."""

    def __init__(self, network: Any, names: Sequence[str], output: str) -> None:
        super().__init__()
        self.network = network
        self._names = tuple(names)
        self._output = output

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        given = dict(zip(self._names, inputs, strict=True))
        output = self.network(**given)[self._output]
        if output.ndim == 3:  # one for each token: what a network says of the padding is arbitrary, and may be NaN
            output = output.masked_fill((given["attention_mask"] == 0).unsqueeze(-1), 0.0)
        return {self._output: output}


class Encoded(NamedTuple):
    """The texts of a batch, the network's inputs for them, and the tokenizer's own results."""

    texts: tuple[Any, ...]
    inputs: dict[str, torch.Tensor]
    found: list[Any]


Finish = Callable[[torch.Tensor, Encoded], dict[str, Any]]
"""Makes the answers of the network's output."""


class _Texts(Staged):
    def __init__(self, network: LoadedModel, tokens: _Tokens, finish: Finish) -> None:
        self.network = network
        self._tokens = tokens
        self._finish = finish

    def __call__(self, *texts: Any) -> dict[str, Any]:
        encoded = self._tokens(*texts)
        (output,) = self.network.forward(*encoded.inputs.values()).values()
        return {**self._finish(output, encoded), "tokens": encoded.inputs["attention_mask"].sum(1, dtype=torch.int32)}

    def around(self, network: LoadedModel) -> _Texts:
        return _Texts(network, self._tokens, self._finish)


class _Tokens:
    """The tokenizer of a folder: texts to the inputs of its network."""

    def __init__(self, folder: Folder, max_length: int | None) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ModelError(needs_extra("hf://", "tokenizers", "hf")) from None
        path = folder.path / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"no tokenizer.json in '{folder.path}': make it with "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the tokenizer raises nothing more special
            raise ModelError(f"'{path}' cannot be read ({error}): copy the folder again") from None
        told, config = folder.json("tokenizer_config.json", optional=True), folder.config
        bounds = [told.get("model_max_length"), config.get("max_position_embeddings"), _LONGEST]
        # Position numbers of RoBERTa and its kin begin after the number of the padding.
        if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet") and bounds[1]:
            bounds[1] -= 2
        most = int(min(bound for bound in bounds if bound))
        if max_length is not None and max_length > most:
            raise ModelError(f"max_length is {max_length}, '{folder.path}' takes at most {most} tokens")
        self._most = max_length or most
        self.tokenizer.enable_truncation(self._most)
        pad = config.get("pad_token_id") or 0
        self.tokenizer.enable_padding(pad_id=pad, pad_token=self.tokenizer.id_to_token(pad) or "[PAD]")
        self._with_types = False
        self._vocabulary = self.tokenizer.get_vocab_size()
        self._where = path

    def fit(self, network: Any) -> None:
        """Checks that the network knows every token."""
        known = network.get_input_embeddings().num_embeddings
        if self._vocabulary > known:
            raise ModelError(
                f"'{self._where}' has {self._vocabulary} tokens, the network knows {known}: they do not belong together"
            )
        self._with_types = getattr(network.config, "type_vocab_size", 0) > 1

    def size(self) -> RowSize:
        """What the work of a text grows with: its bytes, as far as its tokens are not cut."""
        measured = min(self._most, _MOST_MEASURED)
        least = min(_BYTES_OF_TOKEN * _LEAST_MEASURED, _BYTES_OF_TOKEN * measured - 1)
        return RowSize("text", _BYTES_OF_TOKEN * measured, least, pad=0, cut=measured == self._most)

    @property
    def names(self) -> tuple[str, ...]:
        """The network's inputs, in order."""
        return ("input_ids", "attention_mask", *(("token_type_ids",) if self._with_types else ()))

    def __call__(self, *texts: Any) -> Encoded:
        """The network's inputs for texts, or for pairs of them."""
        columns = [[_decoded(text) for text in column] for column in texts]
        rows: Sequence[Any] = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        found = self.tokenizer.encode_batch(rows)
        parts = ([each.ids for each in found], [each.attention_mask for each in found], [e.type_ids for e in found])
        tensors = {name: torch.tensor(part) for name, part in zip(self.names, parts, strict=False)}
        return Encoded(texts, tensors, found)

    def examples(self, rows: int, columns: int) -> list[torch.Tensor]:
        """The network's inputs for made-up texts of several lengths, or pairs of them; the same in each call."""
        draw = random.Random(0)
        longest = max(2, min(self._most, _LONGEST_EXAMPLE) // (2 * columns))

        def words() -> bytes:
            ids = [draw.randrange(self._vocabulary) for _ in range(draw.randint(2, longest))]
            return str(self.tokenizer.decode(ids, skip_special_tokens=False)).encode()

        return list(self(*([words() for _ in range(rows)] for _ in range(columns))).inputs.values())


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise RefusedError("the text is not UTF-8: encode it so") from None


def _embeddings(pooling: str, normal: bool) -> Finish:
    def finish(hidden: torch.Tensor, encoded: Encoded) -> dict[str, Any]:
        mask = encoded.inputs["attention_mask"]
        if pooling == "mean":
            wide = mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * wide).sum(1) / wide.sum(1).clamp(min=1e-9)
        elif pooling == "cls":
            pooled = hidden[:, 0]
        else:
            last = (mask * torch.arange(mask.shape[1])).argmax(1)
            pooled = hidden[torch.arange(len(hidden)), last]
        return {"embedding": torch.nn.functional.normalize(pooled) if normal else pooled}

    return finish


def _rerank(logits: torch.Tensor, encoded: Encoded) -> dict[str, Any]:  # noqa: ARG001 - as every `Finish`
    return {"score": logits[:, 0].sigmoid()}


def _classes(folder: Folder) -> Finish:
    kind, labels = folder.config.get("problem_type"), folder.labels

    def finish(logits: torch.Tensor, encoded: Encoded) -> dict[str, Any]:  # noqa: ARG001 - as every `Finish`
        if kind == "regression" or logits.shape[1] == 1:
            return {"scores": logits}
        scores = logits.sigmoid() if kind == "multi_label_classification" else logits.softmax(1)
        best = [labels[i] if i < len(labels) else str(i) for i in scores.argmax(1).tolist()]
        return {"scores": scores, "label": np.array(best, object)}

    return finish


def _entities(labels: tuple[str, ...]) -> Finish:
    def finish(logits: torch.Tensor, encoded: Encoded) -> dict[str, Any]:
        best, which = (part.tolist() for part in logits.softmax(-1).max(-1))
        answers = [
            json.dumps(_joined(_decoded(text), each, [labels[i] for i in row], sure), ensure_ascii=False)
            for text, each, row, sure in zip(encoded.texts[0], encoded.found, which, best, strict=True)
        ]
        return {"entities": np.array(answers, object)}

    return finish


def _joined(text: str, found: Any, names: Sequence[str], scores: Sequence[float]) -> list[dict[str, Any]]:
    """Entities of a text: neighbouring tokens of the same kind, without those that are none ("O").

    The first token of a word decides for the whole word. `B-` begins another entity, `I-` goes on with the last one.
    """
    entities: list[dict[str, Any]] = []
    word = None
    for (start, end), number, name, score in zip(found.offsets, found.word_ids, names, scores, strict=False):
        if number is None or start == end:
            continue
        prefix, _, kind = name.rpartition("-") if name[:2] in ("B-", "I-") else ("", "", name)
        if number == word:
            if entities and entities[-1]["end"] == start:
                entities[-1]["end"] = end
            continue
        word = number
        last = entities[-1] if entities and entities[-1].pop("open", False) else None
        if name == "O":
            continue
        if last is not None and last["entity"] == kind and prefix != "B":
            last |= {"end": end, "score": min(last["score"], score), "open": True}
        else:
            entities.append({"entity": kind, "start": start, "end": end, "score": score, "open": True})
    for entity in entities:
        entity.pop("open", None)
        entity["score"] = round(entity["score"], 6)
        entity["text"] = text[entity["start"] : entity["end"]]
    return entities


def _pooling(folder: Folder, source: Source) -> tuple[str, bool]:
    """How embeddings are pooled, and whether they have length 1: as asked for, else as the folder says."""
    told = folder.json("1_Pooling/config.json", optional=True)
    own = next((name for name in _POOLINGS if told.get(_POOLING_KEYS[name])), None)
    if told and own is None and "pooling" not in source.options:
        raise ModelError(f"'{folder.path}' pools in another way than {', '.join(_POOLINGS)}: choose one with ?pooling=")
    pooling = source.options.get("pooling") or own or "mean"
    if pooling not in _POOLINGS:
        raise ModelError(f"model source '{source.url}': pooling is '{pooling}', expected one of {', '.join(_POOLINGS)}")
    normal = source.options.get("normalize", "true")
    if normal not in ("true", "false"):
        raise ModelError(f"model source '{source.url}': normalize is '{normal}', expected true or false")
    return pooling, normal == "true"


_POOLING_KEYS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}


def _whole(source: Source, name: str) -> int | None:
    text = source.options.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ModelError(f"model source '{source.url}': {name} is '{text}', expected a whole number of at least 1")
    return int(text)
