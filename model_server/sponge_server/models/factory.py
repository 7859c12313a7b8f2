"""`python://module:factory?key=value`: your own code; the factory returns a `Model` or a `LoadedModel`.

The factory is a function or a subclass of `sponge_server.model.Model`, and gets the options as keyword arguments. The
module is imported in the fork server, so it must not start threads; `Model.setup` may.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sponge_server.model import Model
from sponge_server.models.declared import answer, as_arrays, check_declared, check_inputs, name_of
from sponge_server.models.images import Pixels
from sponge_server.models.loaded import LoadedModel
from sponge_server.models.source import Source
from sponge_server.models.user_code import close_to, imported, named_in, said
from sponge_server.workers.interface import ItemError, ModelError

__all__ = ["load"]

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def load(source: Source) -> LoadedModel:
    """Calls the factory. Raises ModelError when there is none, it fails or it returns something else."""
    module_name, _, function = source.target.rpartition(":")
    if not (module_name and function):
        raise ModelError(
            f"model source '{source.url}' names no factory; write python://package.module:factory, or "
            "python:///absolute/path/to/file.py:factory"
        )
    factory = named_in(imported(module_name, source.url), function, source.url)
    options = _arguments(factory, function, source)
    try:
        made = factory(**options)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the factory is somebody's own code
        raise ModelError(f"model source '{source.url}': {function}() failed: {said(error)}") from None
    if isinstance(made, Model):
        check_declared(made, f"model source '{source.url}': {type(made).__name__}")
        return _steps_of(made)
    if isinstance(made, LoadedModel):
        check_inputs(made.inputs, f"model source '{source.url}': the LoadedModel of {function}()")
        return made
    raise ModelError(
        f"model source '{source.url}': {function}() returned {type(made).__name__}, expected a LoadedModel or a "
        "Model: derive a class from sponge_server.model.Model, or return a LoadedModel"
    )


def _arguments(factory: Callable[..., Any], name: str, source: Source) -> dict[str, Any]:
    """The options as the factory's parameters. Raises ModelError for unknown, missing and unreadable ones."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        parameters = inspect.signature(lambda **_: None).parameters  # built in, and not described
    kinds = inspect.Parameter
    named = {p.name: p for p in parameters.values() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    unknown = sorted(source.options.keys() - named.keys())
    if unknown and not any(p.kind is kinds.VAR_KEYWORD for p in parameters.values()):
        takes = ", ".join(named) or "no options"
        raise ModelError(
            f"model source '{source.url}': unknown option '{unknown[0]}'; {name}() takes {takes}"
            + close_to(unknown[0], named)
        )
    missing = [p.name for p in named.values() if p.default is kinds.empty and p.name not in source.options]
    if missing:
        raise ModelError(f"model source '{source.url}': {name}() needs {missing[0]}: add ?{missing[0]}=VALUE")
    try:
        hints = typing.get_type_hints(factory.__init__ if isinstance(factory, type) else factory)  # type: ignore[misc]
    except Exception:  # noqa: BLE001 - a hint may name what exists for a type checker only
        hints = {}
    return {key: _value(text, hints.get(key, str), key, source) for key, text in source.options.items()}


def _value(text: str, hint: Any, key: str, source: Source) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next((part for part in typing.get_args(hint) if part is not type(None)), str)
    try:
        if hint is bool:
            return _BOOLEANS[text.lower()]
        return hint(text) if hint in (int, float, Path) else text
    except (KeyError, ValueError):
        wanted = "true or false" if hint is bool else f"a number of type {hint.__name__}"
        raise ModelError(f"model source '{source.url}': {key} is '{text}', expected {wanted}") from None


def _steps_of(model: Model) -> LoadedModel:
    names = tuple(spec.name for spec in model.inputs)

    def forward(*tensors: Any) -> Any:
        value: Any = {name: as_arrays(tensor) for name, tensor in zip(names, tensors, strict=True)}
        for step in Model.steps:
            try:
                value = getattr(model, step)(value)
            except ItemError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the step is somebody's own code
                raise ItemError(f"{step}: {said(error)}") from None
        return answer(value, model.outputs, model.batch)

    def setup() -> None:
        try:
            model.setup()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
            raise ModelError(f"setup: {said(error)}") from None

    return LoadedModel(
        forward,
        tuple(model.inputs),
        "python",
        output_names=None if model.outputs is None else tuple(name_of(each) for each in model.outputs),
        labels=model.labels,
        max_batch=model.max_batch if model.batch else 1,
        finite=model.finite,
        setup=setup,
        size=model.size,
        image=None if model.image is None else Pixels(model.image),
        batched=model.batch,
    )
