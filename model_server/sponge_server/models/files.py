"""What a model file is, by its first bytes: so that the wrong kind is refused with what to do instead.

No pickle is executed here, and none of a file that this module refuses: a pickle may run any code when it is read.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from sponge_server.workers.interface import ModelError

__all__ = ["FileKind", "kind_of", "no_pickles"]

FileKind = Literal["export", "package", "torchscript"]
"""Of a file that `file://` loads: a program of torch.export, an AOTInductor package, or TorchScript."""

_OWN_CLASS = "write a class that loads it (python://, see docs/guides/your-model.md)"

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS instead of the file itself: run `git lfs pull`"),
    (
        b"\x80",
        f"a Python pickle, which may run any code: save the model with torch.export.save or skops, or {_OWN_CLASS}",
    ),
    (b"\x89HDF", "a file of Keras: export the model to ONNX, and use onnx://"),
    (b"GGUF", "a language model for llama.cpp, which Sponge does not run"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"<", "a web page or XML: was the download refused? An OpenVINO model is openvino:///path/model.xml"),
)
"""First bytes of files that are no model for `file://`, and what they are."""

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def kind_of(path: Path) -> FileKind:
    """The kind of the file. Raises ModelError, with the fix, when it is missing, unreadable or of another kind."""
    try:
        with path.open("rb") as file:
            first = file.read(64)
    except FileNotFoundError:
        raise ModelError(f"no model file '{path}'; write file:///absolute/path/model.pt2") from None
    except IsADirectoryError:
        raise ModelError(
            f"'{path}' is a folder: name the file in it, or use hf:// for a folder of Hugging Face"
        ) from None
    except OSError as error:
        raise ModelError(
            f"'{path}' cannot be read ({error.strerror}): check its owner and mode, and its mount"
        ) from None
    if not first:
        raise ModelError(f"'{path}' is empty: copy it again")
    if not first.startswith(b"PK"):
        raise ModelError(f"'{path}' is {_other(path, first)}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # Of a file that is cut short, the end may be that of an archive inside of it.
            whole = min((entry.header_offset for entry in archive.infolist()), default=0) == 0
    except (zipfile.BadZipFile, OSError):
        whole = False
    if not whole:
        raise ModelError(
            f"'{path}' is not a torch.export program but cut short or damaged: copy it again, and compare digests"
        )
    inside = {name.partition("/")[2] for name in names}
    if "schema.json" in names:
        raise ModelError(f"'{path}' is a model of skops: use sklearn://{path}")
    if any(name.startswith("data/aotinductor/") for name in inside):
        return "package"
    if "models/model.json" in inside or "serialized_exported_program.json" in names:
        return "export"
    if any(name.startswith("code/") for name in inside):
        return "torchscript"
    if "data.pkl" in inside:
        raise ModelError(
            f"'{path}' is no torch.export program but what torch.save wrote, a pickle of weights or of a whole module: "
            f"export the network with torch.export.save, or {_OWN_CLASS} with torch.load(path, weights_only=True)"
        )
    raise ModelError(
        f"'{path}' is not a torch.export program, TorchScript or a package of `sponge compile`: save the model with "
        "torch.export.save"
    )


@contextlib.contextmanager
def no_pickles(allowed: bool) -> Iterator[None]:
    """Context in which torch reads tensors, but no other object from a pickle, unless that is allowed."""
    before = os.environ.get(_FORCE)
    if not allowed:
        os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_FORCE, None)
        else:
            os.environ[_FORCE] = before


def _other(path: Path, first: bytes) -> str:
    for start, what in _OTHERS:
        if first.startswith(start):
            return what
    if path.suffix == ".onnx":
        return "an ONNX model: use onnx://" + str(path)
    if path.suffix == ".safetensors" or first[8:9] == b"{":
        return "a file of weights without its network: use hf:// with the folder that holds its config.json too"
    return "not a torch.export program: save the model with torch.export.save"
