"""`sponge check`: what it says about wrong models, each with the fix, and about good ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from lane_pool import importable_models

from sponge_server.check import Report, check
from sponge_server.workers.fork_server import _load
from sponge_server.workers.forked_call import forked_call
from sponge_server.workers.interface import ModelError, StartLimits

pytestmark = pytest.mark.torch

LIMITS = StartLimits(load_s=60.0, example_s=20.0)

NOT_LOADED = {
    "no-module": ("python://not_there:Model", "No module named 'not_there': put the folder of not_there on PYTHONPATH"),
    "no-attribute": ("python://wrong_models:Rigth", "no attribute 'Rigth'; write python://.*; close: Right"),
    "no-factory": ("python://wrong_models", "names no factory; write python://package.module:factory"),
    "unknown-option": ("python://wrong_models:Right?sise=2", r"unknown option 'sise'; Right\(\) takes no options"),
    "unknown-scheme": ("ftp://host/m.pt2", "is of an unknown kind; write for example"),
    "no-file": ("file:///not/there.pt2", "no model file '/not/there.pt2'; write file:///absolute/path"),
    "missing-package": ("python://wrong_models:NeedsPackage", "pip install a_package_that_is_not_there"),
    "no-inputs": ("python://wrong_models:NoInputs", "declares no inputs: write for example inputs ="),
    "text-out": ("python://wrong_models:TextOut", "its output is of type str: return a torch tensor, a numpy array"),
    "nothing-out": ("python://wrong_models:NothingOut", "its output is None .a step without return"),
    "one-for-all": ("python://wrong_models:OneForAll", "its first dimension must be the batch"),
    "complex-out": ("python://wrong_models:ComplexOut", "complex64. has a type that cannot be sent: convert it"),
    "wrong-type": (
        "python://wrong_models:WrongType",
        r"predict: RuntimeError: .*wrong_models.py, line \d+, in predict",
    ),
    "wrong-shape": ("python://wrong_models:WrongShape", "predict: RuntimeError: .*shapes"),
    "names-too-many": ("python://wrong_models:NamesTooMany", "returned 1 outputs, its description names 2"),
    "never-ready": ("python://wrong_models:NeverReady", "setup: FileNotFoundError: vocabulary.txt .wrong_models.py"),
    "ragged": ("python://wrong_models:Ragged", "its output is of type list: .* of equal lengths"),
    "few-rows": ("python://wrong_models:FewRows", "at most 2 rows: use --max-batch model=2"),
    "dies": ("python://wrong_models:Dies", "kills its process on an example input .exit code 7"),
    "hangs": ("python://wrong_models:Hangs", "more than 1 s for an example input: it hangs, or it needs more CPU or a"),
}
"""What keeps a model from being loaded, and what the message must say: the fault and the fix."""


@pytest.mark.parametrize("name", NOT_LOADED)
def test_a_wrong_model_is_told_with_the_fix(name: str) -> None:
    source, message = NOT_LOADED[name]
    example_s = 1.0 if name == "hangs" else 20.0
    # In a fork of this process instead of a fork server of its own, which would import torch each time.
    with pytest.raises(ModelError, match=message):
        forked_call(lambda: asdict(_load("model", source, 4, example_s)[1]), 30.0, "loading")


async def checked(source: str, memory_bytes: int | None = None) -> Report:
    with importable_models():
        return await check(source, 4, LIMITS, memory_bytes, lambda _: None)


@pytest.mark.parametrize(
    ("name", "what", "level", "message"),
    [
        ("NotFinite", "answers", "warning", "has NaN or Inf .* set finite to false"),
        ("Random", "answers", "warning", "other answers the second time: call .eval"),
        ("Mixed", "answers", "warning", "depends on the other rows of its batch"),
        ("Busy", "threads", "warning", "computes in threads of its own.* limit its library's pool to one thread"),
    ],
)
async def test_what_a_run_shows_is_told_with_the_fix(name: str, what: str, level: str, message: str) -> None:
    report = await checked(f"python://wrong_models:{name}")
    assert report.good is (level == "warning")
    told = [finding for finding in report.findings if finding.level != "ok"]
    assert [(finding.level, finding.what) for finding in told] == [(level, what)]
    assert re.search(message, told[0].text), told[0].text


def sponge_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    with importable_models():
        command = [sys.executable, "-m", "sponge_cli.main", "check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_says_that_a_model_is_good_and_how_to_serve_it() -> None:
    done = sponge_check("python://wrong_models:Right", "--max-batch", "2", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is True
    assert told["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}]
    assert {(entry["batch"], entry["threads"]) for entry in told["batch_ms"]} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert told["memory_bytes"] > 50 << 20


def test_a_model_without_a_batch_is_served_one_request_at_a_time() -> None:
    done = sponge_check("python://shaped_models:Scaled", "--max-batch", "4")
    assert done.returncode == 0, done.stdout
    assert "inputs   table FP32 [-1, -1], by INT64 []\n" in done.stdout
    assert done.stdout.endswith("--model NAME=python://shaped_models:Scaled --max-batch 1\n")


def test_the_command_refuses_a_model_that_needs_more_memory_than_it_may_have() -> None:
    done = sponge_check("python://wrong_models:Hungry", "--memory", "1Gi")
    assert done.returncode == 2
    assert "1024 MiB are too small for this model: raise the limit" in done.stdout
    assert "serve it with" not in done.stdout


def test_the_command_refuses_an_unreadable_size(tmp_path: Path) -> None:
    done = sponge_check("digits://", "--memory", "much")
    assert (done.returncode, "write a size in bytes, as 65536 or 64Mi" in done.stderr) == (2, True)
