"""The benchmark's models as Sponge takes models of one's own, such as `python://bench.serving.sponge_model:resnet18`."""

from __future__ import annotations

from dataclasses import replace

from bench.bert_sizes import LONGEST, SHORTEST
from bench.serving.model import module_of
from bench.serving.workloads import BERT, RESNET18, Workload
from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import TensorSpec
from sponge_server.workers.row_size import RowSize

__all__ = ["bert", "bert_blind", "resnet18"]


def resnet18() -> LoadedModel:
    """The same weights as every other system's."""
    return replace(_loaded(RESNET18), channels_last=True)


def bert() -> LoadedModel:
    """With the number of tokens as the size of a request."""
    return replace(bert_blind(), size=RowSize(BERT.input, most=LONGEST, least=SHORTEST, pad=0))


def bert_blind() -> LoadedModel:
    """As one whose requests all cost the same."""
    return _loaded(BERT)


def _loaded(workload: Workload) -> LoadedModel:
    inputs = (TensorSpec(workload.input, workload.datatype, workload.shape),)
    return LoadedModel(module_of(workload), inputs, platform="pytorch_eager", output_names=("output",))
