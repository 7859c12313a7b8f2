"""Every code block of the README, the tutorial and the guides is tested: run, validated, or checked without running.

Console blocks run in order, in one folder. `make` targets cannot run inside the tests that they run, so
`make --dry-run` checks that they exist and that the Makefile can be read. `tests/e2e/test_e2e_docs.py` runs the blocks
that need a cluster. Manifests are checked against the CRD's schema and by the operator's own model; there, also by the
API server.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.docs.code_blocks import (
    PAGES,
    ROOT,
    RUN,
    Terminal,
    blocks_in,
    blocks_of,
    crd_complaints,
    manifests,
    shows,
)

from sponge_cli.options import resolve
from sponge_operator.resources.model import parse_service
from sponge_server.settings import ServerSettings

LANGUAGES = {"console", "yaml", "python", "text", "json"}


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal.opened(tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_names_a_known_language(page: str) -> None:
    assert {block.language for block in blocks_of(page)} <= LANGUAGES
    assert (ROOT / page).read_text().count("\n```") == 2 * len(blocks_of(page))


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", RUN)
def test_the_page_runs_on_a_plain_machine(page: str, terminal: Terminal) -> None:
    printed = ""
    for block in blocks_of(page):
        if block.how != "yes":
            continue
        if block.language == "console":
            terminal.run(block)
        elif block.language == "python":
            printed = terminal.python(block)
        elif block.language == "text":
            lacks = shows(tuple(block.text.splitlines()), printed)
            assert lacks is None, f"{block}: the page shows {lacks!r}, and the code before it printed:\n{printed}"


def test_make_targets_of_the_pages_exist() -> None:
    assert shutil.which("make")
    targets = {
        command.text.split("#")[0].split()[1]
        for block in blocks_in(PAGES, "console")
        for command in block.commands
        if command.text.startswith("make ")
    }
    assert {"demo", "test", "setup"} <= targets
    for target in targets:
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def schema() -> dict[str, Any]:
    definition = yaml.safe_load((ROOT / "crds" / "spongeservice.yaml").read_text())
    found: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def test_every_manifest_is_one_of_the_custom_resource() -> None:
    assert len(manifests()) > 3
    for block, document in manifests():
        assert document["apiVersion"] == "serving.sponge.dev/v1alpha1", block
        assert crd_complaints(document, schema()) == [], block
        metadata = {"namespace": "default", "uid": "1", "generation": 1, **document["metadata"]}
        parse_service({**document, "metadata": metadata})


def test_a_manifest_that_is_wrong_is_noticed() -> None:
    document = yaml.safe_load(blocks_in(("docs/tutorial.md",), "yaml")[0].text)
    document["spec"]["cpus"] = document["spec"].pop("cpu")
    document["spec"]["batch"] = {"max": "8"}
    document["spec"]["mode"] = "Sometimes"
    assert crd_complaints(document, schema()) == [
        ".spec.cpu is missing",
        ".spec.cpus is unknown",
        ".spec.batch.max is not a whole number",
        ".spec.mode is none of ['Auto', 'Recommend', 'Off']",
    ]


def test_every_configuration_of_a_server_is_one(tmp_path: Path) -> None:
    checked = 0
    for block in blocks_in(PAGES, "yaml"):
        document = yaml.safe_load(block.text)
        if "kind" not in document and "model" in document:
            path = tmp_path / "serve.yaml"
            path.write_text(block.text)
            resolve(ServerSettings, {}, path)
            checked += 1
    assert checked > 0


@pytest.mark.parametrize("page", PAGES)
def test_options_of_sponge_that_a_page_uses_exist(page: str) -> None:
    import click

    from sponge_cli.main import cli

    for block in blocks_of(page):
        if block.language != "console":
            continue
        for command in block.commands:
            words = command.text.split("#")[0].replace("\\\n", " ").split()
            if not words or words[0] != "sponge":
                continue
            found: click.Command = cli
            context = click.Context(cli)
            rest = words[1:]
            while isinstance(found, click.Group) and rest and not rest[0].startswith("-"):
                child = found.get_command(context, rest.pop(0))
                assert child is not None, f"{block}: {command.text}"
                found = child
            known = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
            used = {word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"}
            assert used <= known | {"--help", "--version"}, f"{block}: {used - known} of {command.text}"


def test_output_is_compared_loosely_but_not_blindly() -> None:
    assert shows(("a 1.5 b", "...", "c"), "a   27 b\nx\nc\n") is None
    assert shows(("│ x │ 3 │",), "│ x      │ 12,000 │") is None
    assert shows(("pod-... ready",), "pod-abc-1 ready") is None
    assert shows(("pod-... -3",), "pod-64b5ff46f-1 -4.5") is None
    assert shows(("a", "b"), "b\na") == "b"
    assert shows(("refused",), "taken") == "refused"
