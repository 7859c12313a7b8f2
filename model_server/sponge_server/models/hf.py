"""`hf:///folder` or `hf://owner/name`: a model of Hugging Face, with its tokenizer and what comes before and after it.

The folder holds config.json, weights as safetensors, and tokenizer.json or preprocessor_config.json. Of a name, the
hub's cache on this machine is used, and filled if need be. Code and pickles of a folder are never executed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sponge_core.errors import needs_extra
from sponge_server.models.fetching import hub_folder
from sponge_server.models.loaded import LoadedModel
from sponge_server.models.source import Source
from sponge_server.workers.interface import ModelError

__all__ = ["TASKS", "Folder", "load"]

TASKS = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "embeddings": "AutoModel",
    "rerank": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}
"""Values of the option `task`, and the class of transformers that loads the network."""

_BY_ARCHITECTURE = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForImageClassification": "image-classification",
    "ForCausalLM": None,
    "ForConditionalGeneration": None,
    "ForQuestionAnswering": None,
}
"""The task of a network by the end of its name; None: no task that is served. Every other is for embeddings."""

_UNUSED = ("pooler.", "cls.", "lm_head.")
"""Weights that embeddings do without."""


class Folder:
    """A folder of Hugging Face. Raises ModelError from every method when something is missing or cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = self.json("config.json")

    def json(self, name: str, optional: bool = False) -> dict[str, Any]:
        """A file of the folder; empty if it is optional and not there."""
        try:
            found = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            if optional:
                return {}
            raise ModelError(f"no {name} in '{self.path}': give the folder that save_pretrained wrote") from None
        except (OSError, ValueError) as error:
            raise ModelError(f"'{self.path / name}' cannot be read ({error}): copy the folder again") from None
        if not isinstance(found, dict):
            raise ModelError(f"'{self.path / name}' is no JSON object: copy the folder again")
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes by number."""
        names = self.config.get("id2label") or {}
        return tuple(str(names[key]) for key in sorted(names, key=int))

    def task(self) -> str:
        """The task that the network was trained for."""
        architecture = next(iter(self.config.get("architectures") or ()), "")
        for end, task in _BY_ARCHITECTURE.items():
            if architecture.endswith(end):
                if task is None:
                    known = ", ".join(TASKS)
                    raise ModelError(f"'{self.path}' is a {architecture}, which is for none of the tasks {known}")
                return "rerank" if task == "text-classification" and len(self.labels) == 1 else task
        return "embeddings"

    def check_weights(self) -> None:
        """Raises ModelError when there are no weights that can be read without executing code."""
        if self.config.get("auto_map"):
            raise ModelError(
                f"'{self.path}' brings code of its own, which is not executed: write a class (python://) that loads it"
            )
        if any(self.path.glob("*.safetensors")):
            return
        pickles = [path.name for path in (*self.path.glob("*.bin"), *self.path.glob("*.pt"), *self.path.glob("*.pth"))]
        if pickles:
            raise ModelError(
                f"'{self.path}' has its weights in {pickles[0]}, a pickle that may run any code: convert it once, "
                "where you trust it, with AutoModel.from_pretrained(folder).save_pretrained(folder)"
            )
        raise ModelError(f"no weights (*.safetensors) in '{self.path}': copy them, or run `git lfs pull`")

    def network(self, task: str) -> Any:
        """The network for a task, in evaluation mode."""
        # Threads that load weights would not survive the forks that follow.
        os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            import transformers
        except ImportError:
            raise ModelError(needs_extra("hf://", "transformers", "hf")) from None
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        try:
            network, told = getattr(transformers, TASKS[task]).from_pretrained(
                self.path, use_safetensors=True, local_files_only=True, output_loading_info=True, dtype="float32"
            )
        except Exception as error:  # noqa: BLE001 - transformers raises anything
            text = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise ModelError(f"'{self.path}' cannot be loaded for {task} ({text}): is the folder complete?") from None
        missing = [name for name in told["missing_keys"] if task != "embeddings" or not name.startswith(_UNUSED)]
        if missing:
            raise ModelError(
                f"'{self.path}' has no weights for {sorted(missing)[0]}, so it was not trained for {task}: choose "
                "another ?task=, or the folder of a trained model"
            )
        return network.eval()


def load(source: Source) -> LoadedModel:
    """Loads the folder for its task. Raises ModelError, with the fix."""
    source.only("task", "max_length", "pooling", "normalize", "revision")
    if source.target.startswith("/"):
        path = Path(source.target)
        if not path.is_dir():
            raise ModelError(f"no folder '{path}': give its absolute path, or mount it; a name of the hub is hf://NAME")
    else:
        path = hub_folder(source.target.strip("/"), source.options.get("revision"))
    folder = Folder(path)
    task = source.options.get("task") or folder.task()
    if task not in TASKS:
        raise ModelError(f"model source '{source.url}': task is '{task}', expected one of {', '.join(TASKS)}")
    folder.check_weights()
    if task == "image-classification":
        from sponge_server.models.hf_images import load_images

        return load_images(folder)
    from sponge_server.models.hf_texts import load_texts

    return load_texts(folder, task, source)
