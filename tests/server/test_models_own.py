"""`python://`: a class or factory of one's own, its options, and what happens when its code fails."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lane_pool import item

from sponge_server.models.source import load
from sponge_server.workers.interface import ItemError, ModelError, ModelSpec, RefusedError, TensorSpec
from sponge_server.workers.pool import WorkerPool

pytestmark = pytest.mark.torch

SCALED = """
    import threading
    from pathlib import Path
    from sponge_server.model import Input, InputError, Model

    class Scaled(Model):
        inputs = (Input("x", "FP32", (2,)),)
        labels = ("low", "high")

        def __init__(self, by: float = 2.0, rows: int | None = None, exact: bool = False, folder: Path = Path("/")):
            self.by, self.max_batch, self.exact, self.folder = by, rows, exact, folder
            self.ready = False

        def setup(self):
            threading.Thread(target=threading.Event().wait, daemon=True).start()  # a lane may have threads
            self.ready = True

        def preprocess(self, inputs):
            if (inputs["x"] < 0).any():
                raise InputError("x must not be negative")
            if (inputs["x"] > 99).any():
                raise KeyError("too large")
            return inputs["x"]

        def predict(self, batch):
            assert self.ready
            return batch * self.by

        def postprocess(self, result):
            return {"scaled": result}
"""
_numbers = itertools.count()


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str], str]:
    """Writes a module and returns `python://` and its path."""

    def write(code: str) -> str:
        path = tmp_path / f"own_{next(_numbers)}.py"  # every module has a name of its own, because Python keeps them
        path.write_text(textwrap.dedent(code))
        return f"python://{path}"

    return write


def test_options_come_as_the_types_of_the_parameters(source: Callable[[str], str]) -> None:
    model = load(source(SCALED) + ":Scaled?by=3&rows=5&exact=true&folder=/data%20x")
    assert (model.max_batch, model.labels, model.inputs) == (5, ("low", "high"), (TensorSpec("x", "FP32", (2,)),))
    assert model.setup is not None
    model.setup()
    ((name, scaled),) = model.run([torch.tensor([[1.0, 2.0]])])
    assert (name, scaled.tolist()) == ("scaled", [[3.0, 6.0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?bye=3", r"unknown option 'bye'; Scaled\(\) takes by, rows, exact, folder; close: by"),
        ("?by=three", "by is 'three', expected a number of type float"),
        ("?rows=1.5", "rows is '1.5', expected a number of type int"),
        ("?exact=maybe", "exact is 'maybe', expected true or false"),
    ],
)
def test_wrong_options_are_named(source: Callable[[str], str], options: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(source(SCALED) + ":Scaled" + options)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def make(path): ...", r"make\(\) needs path: add \?path=VALUE"),
        ("def make(): return 1 / 0", r"make\(\) failed: ZeroDivisionError: .* \(own_\d+.py, line 1, in make\)"),
        ("def make(): raise SystemExit(3)", "tried to exit the process .code 3."),
        ("make = 3", "has no function or class, but a value of that name"),
        ("def maker(): ...", "no attribute 'make'; .*close: maker"),
        ("def make(:", r"SyntaxError: .*\(own_\d+.py, line 1\)"),
        ("import absent_package.part\ndef make(): ...", r"install absent_package .*pip install absent_package"),
        ("def make(): import absent_package", r"install absent_package .*pip install absent_package"),
        ("def make(): ...", "returned NoneType, expected a LoadedModel or a Model: derive a class from"),
        ("from sponge_server.model import Model as make", "Model declares no inputs: write for example inputs = "),
        (
            "from sponge_server.model import *\nclass make(Model): inputs = ('x',)",
            "has a str among its inputs",
        ),
        (
            "from sponge_server.model import *\nclass make(Model): inputs = (Input('x', 'float32', (1,)),)",
            "input x has datatype 'float32', expected one of BOOL",
        ),
        (
            "from sponge_server.model import *\nclass make(Model): inputs = (Input('x', 'FP32', (0,)),)",
            "give sizes without the batch",
        ),
        (
            "from sponge_server.model import *\nclass make(Model): inputs = (Input('x', 'FP32', ()),) * 2",
            "two inputs of the same name",
        ),
    ],
)
def test_wrong_code_is_told_with_its_place(source: Callable[[str], str], code: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(source(code) + ":make")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="give its absolute path on the server"):
        load(f"python://{tmp_path}/none.py:make")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "its output is None .a step without return"),
        ("return {'y': [[1], [2, 3]]}", "its y is of type list: return a torch tensor"),
        ("return batch['x'][0].sum()", "its first dimension must be the batch"),
        ("return batch['y']", r"predict: KeyError: 'y' \(own_\d+.py, line 5, in predict\)"),
        ("raise SystemExit", "predict: it tried to exit"),
        ("return super().predict(batch)", r"write M.predict\(self, batch\)"),
    ],
)
def test_a_wrong_answer_is_told_with_the_fix(source: Callable[[str], str], body: str, message: str) -> None:
    code = f"""
    from sponge_server.model import Input, Model
    class M(Model):
        inputs = (Input("x", "FP32", (2,)),)
        def predict(self, batch): {body}
    """
    with pytest.raises(ItemError, match=message):
        load(source(code) + ":M").run([torch.ones(2, 2)])


def test_lists_tuples_and_arrays_are_answers(source: Callable[[str], str]) -> None:
    code = """
    from sponge_server.model import Input, Model
    class M(Model):
        inputs = (Input("x", "BF16", (2,)), Input("y", "INT64", ()))
        outputs = ("a", "b", "c")
        def predict(self, batch):
            return batch["x"].float(), batch["y"], [[row] for row in batch["y"]]
    """
    named = load(source(code) + ":M").run([torch.ones(2, 2, dtype=torch.bfloat16), torch.tensor([1, 2])])
    assert [(name, list(tensor.shape)) for name, tensor in named] == [("a", [2, 2]), ("b", [2]), ("c", [2, 1])]


async def test_the_steps_run_in_lanes_and_their_errors_stay_with_the_request(source: Callable[[str], str]) -> None:
    workers = WorkerPool([ModelSpec("scaled", source(SCALED) + ":Scaled?by=10", max_batch=4)])
    try:
        await workers.start(1)
        assert workers.models[0].outputs == (TensorSpec("scaled", "FP32", (2,)),)
        good, refused, bad, last = (
            await workers.lanes[0].run([item((1.0, 2.0)), item((-1.0, 0.0)), item((100.0, 0.0)), item((3.0, 4.0))], 1)
        ).outputs
    finally:
        await workers.close()
    assert isinstance(good, tuple)
    assert isinstance(last, tuple)
    assert (bytes(good[0].data), bytes(last[0].data)) == tuple(
        torch.tensor(row).numpy().tobytes() for row in ((10.0, 20.0), (30.0, 40.0))
    )
    assert isinstance(refused, RefusedError)
    assert str(refused) == "x must not be negative"
    assert isinstance(bad, ItemError)
    assert not isinstance(bad, RefusedError)
    assert "the model failed on this request: preprocess: KeyError: 'too large' (own_" in str(bad)


def test_threads_of_the_factory_are_named_with_the_fix(source: Callable[[str], str]) -> None:
    from sponge_server.workers import fork_server

    code = """
    import threading
    threading.Thread(target=threading.Event().wait, name="watcher", daemon=True).start()
    """
    before = set(fork_server._own_threads())
    with pytest.raises(ModelError, match="no attribute"):
        load(source(code) + ":make")
    assert "watcher" in set(fork_server._own_threads()) - before


def test_the_public_module_needs_no_torch() -> None:
    import subprocess

    program = "import sys, sponge_server.model; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
