"""Compiled packages and bf16: they run in lanes with any batch and thread count; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sponge_server.models import precision
from sponge_server.models.compiling import compile_model
from sponge_server.models.example_rows import example_batch
from sponge_server.models.exported import sidecar_path
from sponge_server.models.source import load, parse, with_options
from sponge_server.workers.examples import example_item
from sponge_server.workers.interface import ModelError, ModelSpec
from sponge_server.workers.pool import WorkerPool

pytestmark = pytest.mark.torch

MAX_BATCH = 5


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "digits.pt2"
    steps: list[str] = []
    made = compile_model("digits://", path, MAX_BATCH, steps.append)
    assert [step.split()[0] for step in steps] == ["loading", "exporting", "compiling,", "comparing"]
    assert 0 <= made.relative_error < 1e-4
    assert {(1, 1), (MAX_BATCH, 1)} <= set(made.checked)
    return path


async def test_a_package_gives_the_outputs_of_the_original_for_any_batch_and_thread_count(package: Path) -> None:
    pool = WorkerPool(
        [ModelSpec("digits", "digits://", MAX_BATCH), ModelSpec("compiled", f"file://{package}", MAX_BATCH)]
    )
    try:
        await pool.start(2)
        assert pool.models[1].platform == "pytorch_aotinductor"
        assert pool.models[1].labels == tuple("0123456789")
        assert pool.models[1].accepts_images
        for rows in range(1, MAX_BATCH + 1):
            item = example_item(pool.models[0], rows)
            right = (await pool.lanes[0].run([item], 1)).outputs[0]
            for lane in pool.lanes:
                for threads in (1, 2, 3):
                    result = await lane.run([item], threads, model=1)
                    given = result.outputs[0]
                    assert result.threads == threads
                    assert isinstance(given, tuple)
                    assert isinstance(right, tuple)
                    assert (given[0].name, given[0].shape) == (right[0].name, right[0].shape)
                    np.testing.assert_allclose(
                        np.frombuffer(given[0].data, np.float32),
                        np.frombuffer(right[0].data, np.float32),
                        rtol=1e-3,
                        atol=1e-4,
                    )
    finally:
        await pool.close()


def test_a_package_cannot_be_compiled_again(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is compiled already"):
        compile_model(f"file://{package}", tmp_path / "m.pt2", 2, lambda _: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, r"does not say what it was compiled for: make both with `sponge compile SOURCE -o m.pt2"),
        ({"cpu": "AVX512"}, "compiled for a CPU with AVX512, this one has AVX2: compile it here"),
    ],
)
def test_a_package_that_cannot_run_says_what_to_do(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str] | None, message: str
) -> None:
    copy = tmp_path / "m.pt2"
    copy.write_bytes(package.read_bytes())
    if change is not None:
        description = json.loads(sidecar_path(package).read_text())
        description["compiled"] |= change
        sidecar_path(copy).write_text(json.dumps(description))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(ModelError, match=message):
        load(f"file://{copy}")


def test_a_damaged_package_is_named(package: Path, tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(package.read_bytes()[:-2000])
    sidecar_path(tmp_path / "m.pt2").write_bytes(sidecar_path(package).read_bytes())
    with pytest.raises(ModelError, match=r"m\.pt2' is not a torch\.export program"):
        load(f"file://{tmp_path}/m.pt2")


@pytest.mark.parametrize(
    ("output", "max_batch", "message"),
    [("m.so", 2, "must end in .pt2"), ("nowhere/m.pt2", 2, "create it first"), ("m.pt2", 0, "at least 1")],
)
def test_an_invalid_output_file_is_refused(tmp_path: Path, output: str, max_batch: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        compile_model("digits://", tmp_path / output, max_batch, lambda _: None)
    assert list(tmp_path.iterdir()) == []


# --- bf16 ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 gives the same numbers on any CPU, only slowly on most."""
    monkeypatch.setattr(precision, "native_bf16", lambda: True)


@pytest.mark.parametrize(
    ("flags", "native"),
    [("fpu avx512f avx512_bf16 sse", True), ("fpu amx_tile amx_bf16", True), ("fpu avx512f", False), ("", False)],
)
def test_bf16_support_is_read_from_the_cpu_flags(tmp_path: Path, flags: str, native: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert precision.native_bf16(tmp_path / "cpuinfo") is native
    assert precision.native_bf16(tmp_path / "none") is False


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("source", ["digits://", "torchvision://mobilenet_v3_small?weights=none&accept_accuracy=true"])
def test_bf16_returns_nearly_the_same_outputs_in_fp32(source: str) -> None:
    plain, rounded = load(source), load(f"{source}{'&' if '?' in source else '?'}dtype=bf16")
    assert rounded.platform == f"{plain.platform}, bf16"
    inputs = example_batch(plain, 4)
    assert [tensor.dtype for _, tensor in rounded.run(inputs)] == [torch.float32]
    assert 0 < precision.compare(plain, rounded, inputs).relative_error < 0.1


@pytest.mark.usefixtures("native")
def test_inaccurate_bf16_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "LARGEST_ERROR", 1e-6)
    with pytest.raises(ModelError, match=r"bf16: its outputs differ by 0\.\d+% from those in fp32, and \d+.*accept"):
        load("digits://?dtype=bf16")
    accepted = load("digits://?dtype=bf16&accept_accuracy=true")
    assert "in bf16 its outputs differ by" in str(accepted.warning)
    assert load("digits://?dtype=auto").platform == "pytorch_export"


def test_bf16_needs_a_cpu_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda: False)
    with pytest.raises(ModelError, match="this CPU does not compute in it"):
        load("digits://?dtype=bf16")
    assert load("digits://?dtype=auto").platform == "pytorch_export"


def test_precision_is_an_option_of_every_source_and_takes_precedence_there() -> None:
    assert with_options("digits://", None, "fp32", False) == "digits://"
    assert with_options("digits://", None, "bf16", True) == "digits://?dtype=bf16&accept_accuracy=true"
    assert (
        with_options("torchvision://a?weights=none", None, "auto", False) == "torchvision://a?weights=none&dtype=auto"
    )
    assert with_options("digits://?dtype=fp32", None, "bf16", False) == "digits://?dtype=fp32"
    with pytest.raises(ModelError, match="dtype must be one of fp32, bf16, int8, auto"):
        parse("digits://?dtype=int4")
