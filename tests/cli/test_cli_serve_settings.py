"""Settings of `sponge serve`: precedence, what is shown, and one clear line for whatever does not do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from command_line import sponge

from sponge_cli.options import SettingsError, render, resolve
from sponge_cli.serve import command
from sponge_server.settings import ModelSettings, ServerSettings

MODEL = {"model": ("m=digits://",)}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "serve.yaml") -> Path:
        Path(name).write_text(text)
        return Path(name)

    return write


def settings(flags: dict[str, Any] | None = None, config: Path | None = None) -> ServerSettings:
    return resolve(ServerSettings, MODEL | (flags or {}), config).settings


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(
    file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = file("slo-ms: 1\nmax-batch: 1\nhttp_port: 1\n")
    monkeypatch.setenv("SPONGE_SERVE_SLO_MS", "2")
    monkeypatch.setenv("SPONGE_SERVE_MAX_BATCH", "2")
    resolved = resolve(ServerSettings, MODEL | {"slo_ms": "3"}, config)
    now = resolved.settings
    (model,) = now.models
    assert (model.slo_s, model.max_batch, now.http_port, now.control_port) == (0.003, 2, 1, 9090)
    assert [resolved.sources[name] for name in ("slo_ms", "max_batch", "http_port", "control_port")] == [
        "--slo-ms",
        "SPONGE_SERVE_MAX_BATCH",
        "serve.yaml: http-port",
        "default",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "model: {r: 'torchvision://resnet18?weights=none'}\nslo-class: {gold: 300}\ncores: 500m\n"),
        ("a.yaml", "model: ['r=torchvision://resnet18?weights=none']\nslo-class: [gold=300]\ncores: 0.5\n"),
        ("a.toml", "cores = '500m'\n[model]\nr = 'torchvision://resnet18?weights=none'\n[slo-class]\ngold = 300\n"),
    ],
)
def test_a_file_is_yaml_or_toml(file: Callable[..., Path], name: str, text: str) -> None:
    now = resolve(ServerSettings, {}, file(text, name)).settings
    assert now.models == (ModelSettings("r", "torchvision://resnet18?weights=none", 8, "auto", 1.0),)
    assert (now.slo_classes, now.cores, now.max_cores, now.min_cores) == ({"gold": 0.3}, 0.5, 0.5, 0.5)


def test_an_empty_variable_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPONGE_SERVE_SLO_MS", "")
    assert settings().models[0].slo_s == 1


def test_words_of_a_variable_are_apart_by_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPONGE_SERVE_SLO_CLASS", "gold=300 iron=5000")
    assert settings().slo_classes == {"gold": 0.3, "iron": 5.0}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"cores": "fast"}, "--cores is 'fast': write a CPU size above 0, as 0.5 or 500m"),
        ({"cores": "0"}, "--cores is '0': write a CPU size above 0, as 0.5 or 500m"),
        ({"http_port": "http"}, "--http-port is 'http': give a whole number"),
        ({"http_port": "65536"}, "--http-port is '65536': give at most 65535"),
        ({"max_batch": "0"}, "--max-batch is '0': give at least 1"),
        ({"slo_ms": "nan"}, "--slo-ms is 'nan': give a finite number"),
        ({"slo_ms": ("5", "m=0")}, "--slo-ms m is '0': give more than 0"),
        ({"slo_ms": ("x=5",)}, "--slo-ms x: there is no such model, only 'm'"),
        ({"model": ("m=digits://", "m=digits://")}, "--model: 'm' appears twice: give each name once"),
        ({"slo_class": ("gold=0",)}, "--slo-class gold is '0': give more than 0"),
        ({"slo_class": ("gold",)}, "--slo-class: 'gold' is not of the form NAME=MS"),
        ({"slo_class": ("a=1", "a=2")}, "--slo-class: 'a' appears twice: give each name once"),
        ({"max_body_bytes": "64MB"}, "--max-body-bytes is '64MB': write a size in bytes, as 65536 or 64Mi"),
        ({"drain_s": "-1"}, "--drain-s is '-1': give at least 0"),
        ({"log_level": "loud"}, "--log-level is 'loud': give one of 'debug', 'info', 'warning' or 'error'"),
        (
            {"model": ("a/b=x://",)},
            "--model a/b is 'a/b': the name must not be empty, and must not contain a slash or a space",
        ),
        ({"min_cores": "3"}, "--min-cores 3 is above max-cores 2: lower the first or raise the second"),
        ({"max_queue_bytes": "1Mi"}, "max-body-bytes 67108864 is above --max-queue-bytes 1048576: such a body would"),
    ],
)
def test_a_flag_that_does_not_do_is_named_with_the_fix(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(flags)
    assert str(refused.value).startswith(message)


def test_a_missing_model_says_the_three_ways_to_give_it() -> None:
    with pytest.raises(SettingsError, match="--model NAME=SOURCE, set SPONGE_SERVE_MODEL, or write model in the file"):
        resolve(ServerSettings, {}, None)


def test_a_variable_that_does_not_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPONGE_SERVE_HTTP_PORT", "tcp://10.0.0.1:80")
    with pytest.raises(SettingsError, match=r"^SPONGE_SERVE_HTTP_PORT is 'tcp://10.0.0.1:80': give a whole number$"):
        settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("htp-port: 1", "serve.yaml: htp-port: no such setting; did you mean http-port?"),
        ("zzz: 1", "serve.yaml: zzz: no such setting; see --help for all of them"),
        ("http-port: [1]", "serve.yaml: http-port: give a whole number"),
        ("http-port: x", "serve.yaml: http-port is 'x': give a whole number"),
        ("http-port: 1.5", "serve.yaml: http-port is 1.5: give a whole number"),
        ("http-port: 1\nhttp_port: 2", "serve.yaml: http_port: appears twice"),
        ("slo-class: 3", "serve.yaml: slo-class is 3: give NAME=VALUE, or a mapping in a file"),
        ("slo-class: {gold: fast}", "serve.yaml: slo-class gold is 'fast': give a number"),
        ("just words", "serve.yaml: write one 'key: value' a line"),
        ("a: [", "serve.yaml: this is not YAML: "),
        ("min-cores: 3", "serve.yaml: min-cores 3 is above max-cores 2"),
    ],
)
def test_a_file_that_does_not_do_is_named_with_its_key(file: Callable[..., Path], text: str, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(config=file(text))
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_toml_is_told_by_its_name_and_a_missing_file_by_its_path(file: Callable[..., Path]) -> None:
    with pytest.raises(SettingsError, match=r"^a.toml: this is not TOML: "):
        settings(config=file("a: 1", "a.toml"))
    with pytest.raises(SettingsError, match=r"^--config nowhere.yaml: cannot be read: "):
        settings(config=Path("nowhere.yaml"))


TWO = {"model": ("a=digits://", "b=file:///m.pt2")}


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"slo_ms": ("2000", "b=200"), "profile": ("a=p/x=1.yaml",), "max_batch": ("4", "8", "b=1")}, ""),
        ({}, "slo-ms: {'*': 2000, b: 200}\nprofile: [a=p/x=1.yaml]\nmax-batch: {b: 1}"),
        ({}, "slo-ms: [2000, b=200]\nprofile: {a: p/x=1.yaml}\nmax-batch: [8, b=1]"),
    ],
)
def test_one_model_may_have_a_value_of_its_own(file: Callable[..., Path], flags: dict[str, Any], text: str) -> None:
    now = resolve(ServerSettings, TWO | flags, file(text)).settings
    assert now.models == (
        ModelSettings("a", "digits://", 8, "p/x=1.yaml", 2.0),
        ModelSettings("b", "file:///m.pt2", 1, "auto", 0.2),
    )
    shown = render(resolve(ServerSettings, TWO | flags, file(text)))
    assert resolve(ServerSettings, {}, file(shown)).settings.models == now.models


def test_a_path_may_hold_the_sign_that_follows_a_models_name() -> None:
    assert settings({"profile": ("/p/x=1.yaml",)}).models[0].profile == "/p/x=1.yaml"


def test_the_shown_configuration_is_a_file_that_gives_the_same_settings(
    file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPONGE_SERVE_DRAIN_S", "7")
    shown = CliRunner().invoke(command, ["--model", "m=digits://", "--cores", "1500m", "--print-config"])
    assert shown.exit_code == 0
    lines = dict(line.split("  # ") for line in shown.output.splitlines())
    sources = {line.split(":")[0]: source for line, source in lines.items()}
    assert (sources["cores"], sources["drain-s"], sources["slo-ms"]) == ("--cores", "SPONGE_SERVE_DRAIN_S", "default")
    assert sources.keys() == {name.replace("_", "-") for name in ServerSettings.model_fields}
    monkeypatch.delenv("SPONGE_SERVE_DRAIN_S")
    again = resolve(ServerSettings, {}, file(shown.output)).settings
    assert again == settings({"cores": "1500m", "drain_s": "7"})


def test_passwords_are_not_shown() -> None:
    address = "m=https://user:secret@example.org/m.pt2"
    shown = CliRunner().invoke(command, ["--model", address, "--print-config"])
    assert yaml.safe_load(shown.output)["model"] == {"m": "https://user:***@example.org/m.pt2"}


def test_the_help_lists_every_setting_with_default_and_variable() -> None:
    context = click.Context(command, info_name="serve", max_content_width=400, terminal_width=400)
    text = command.get_help(context)
    for name, field in ServerSettings.model_fields.items():
        described = re.search(
            rf"--{name.replace('_', '-')} .*?\[((?:default: |required)[^\[\]]*); env: (\w+)]", text, re.DOTALL
        )
        assert described is not None
        assert described[2] == f"SPONGE_SERVE_{name.upper()}"
        assert described[1].startswith("required" if field.is_required() else "default: ")
    assert "default: 64Mi" in text


def test_a_wrong_setting_is_one_line_and_exit_code_2() -> None:
    done = sponge("serve", "--model", "m=digits://", "--http-port", "x")
    assert (done.returncode, done.stderr) == (2, "sponge: --http-port is 'x': give a whole number\n")
