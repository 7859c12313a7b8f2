"""Model control: who may load and unload models by the protocol's model repository, and what a request asks for.

The token of the control port is required, not an API key: whoever loads a model chooses the code that the server runs.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from sponge_server.lifecycle import Loaded
from sponge_server.protocol.oip import shown
from sponge_server.protocol.problems import ProblemError
from sponge_server.repository import Change, Repository
from sponge_server.security.control_token import ControlToken, authorise
from sponge_server.settings import ServerSettings

__all__ = ["ModelControl", "change_of", "controls"]

CLOSED = "model control is off: start the server with --model-control explicit and --control-token-file"


class ModelControl:
    """Guards the repository of a server, for all protocols."""

    def __init__(self, repository: Loaded[Repository], token: ControlToken | None) -> None:
        """`token`: None: model control is off."""
        self._repository = repository
        self._token = token

    def enter(self, authorization: str) -> Repository:
        """The repository, for a request with this `Authorization` header.

        Raises ProblemError: 403 while model control is off, 401 without the token, 503 before the models are loaded.
        """
        authorise(self._token, authorization, CLOSED)
        return self._repository.get()


def controls(
    settings: ServerSettings, repository: Loaded[Repository], token: ControlToken | None
) -> tuple[ModelControl, ModelControl]:
    """Model control on the data ports, and on the control port."""
    mode = settings.model_control
    on_data, on_control = token if mode == "explicit" else None, token if mode != "none" else None
    return ModelControl(repository, on_data), ModelControl(repository, on_control)


def change_of(name: str, parameters: Mapping[str, object]) -> Change:
    """The change that the parameters of a load request ask for. Raises ProblemError 400.

    `source` is a model source. `config` is the JSON text of a model configuration, as Triton's clients send it, with
    `max_batch_size` and the source as its parameter `source`.
    """
    source, max_batch = parameters.get("source"), None
    for given in parameters.keys() - {"source", "config"}:
        text = f"parameter {shown(given)}: a load takes source and config"
        raise _invalid(f"{text}; give files by a source" if given.startswith("file:") else text)
    if "config" in parameters:
        config = _document(parameters["config"])
        for given in config.keys() - {"name", "max_batch_size", "parameters"}:
            raise _invalid(f"config has {shown(given)}: it may have name, max_batch_size and parameters.source")
        if config.get("name", name) != name:
            raise _invalid(f"config is of model {shown(config['name'])}, the request of {name!r}")
        max_batch = config.get("max_batch_size")
        source = _source_in(config.get("parameters", {}), source)
    if max_batch is not None and (type(max_batch) is not int or max_batch < 1):
        raise _invalid(f"config.max_batch_size is {shown(max_batch)}: give a whole number >= 1")
    if source is not None and (not isinstance(source, str) or not source):
        raise _invalid(f"source is {shown(source)}: give the text of a model source")
    return Change(source, max_batch)


def _document(text: object) -> dict[str, object]:
    try:
        document = orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError as error:
        raise _invalid(f"config cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise _invalid("config must be the text of a JSON object")
    return document


def _source_in(parameters: object, source: object) -> object:
    """The source as a configuration has it: `{"source": {"string_value": ...}}`, or its text alone."""
    if not isinstance(parameters, dict) or parameters.keys() - {"source"}:
        raise _invalid("config.parameters may have source only")
    found = parameters.get("source", source)
    return found.get("string_value") if isinstance(found, dict) else found


def _invalid(text: str) -> ProblemError:
    return ProblemError(400, "invalid-request", text)
