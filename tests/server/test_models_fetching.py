"""Remote sources end to end: another process fetches, and the kind of model follows from what came."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
import skops.io
import torch
from range_server import serving
from sklearn.linear_model import Ridge

from sponge_server.models.source import load, parse, with_options
from sponge_server.workers.interface import ModelError

pytestmark = pytest.mark.torch


def test_options_of_a_remote_source_follow_a_hash() -> None:
    url = "https://host/m.pt2?signature=a%2Fb#sha256=12&task=rerank"
    assert parse(url).options == {"sha256": "12", "task": "rerank"}
    assert with_options("https://host/m?x=1", None, "bf16", False) == "https://host/m?x=1#dtype=bf16"
    assert with_options("https://host/m#sha256=1", None, "bf16", False) == "https://host/m#sha256=1&dtype=bf16"


def test_a_model_is_fetched_by_another_process_and_loaded_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = io.BytesIO()
    batch = {0: torch.export.Dim("batch", min=1)}
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.ones(2, 6),), dynamic_shapes=(batch,)), program)
    ridge = skops.io.dumps(Ridge().fit([[0.0], [1.0]], [0.0, 2.0]))
    digest = hashlib.sha256(ridge).hexdigest()
    with serving({"/m.pt2": program.getvalue(), "/r.skops": ridge}) as files:
        assert load(f"{files.url}/m.pt2?signature=x").inputs[0].shape == (6,)
        ((name, _),) = load(f"{files.url}/r.skops#sha256={digest}").run([torch.ones(1, 1, dtype=torch.float64)])
        assert name == "value"
        with pytest.raises(ModelError, match="there is nothing at"):
            load(f"{files.url}/none.pt2")
        with pytest.raises(ModelError, match="unknown option 'sha265'"):
            load(f"{files.url}/m.pt2#sha265=1")
    assert "fetching r.skops: 0 of 0 MiB" in capsys.readouterr().out
