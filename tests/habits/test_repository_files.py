"""Workflows, hooks and the dev container name only make targets, files and Python versions that exist."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

TOP_LEVEL = "bench|cli|client|core|crds|deploy|docs|model_server|operator|profiles|simulator|tests|tools"
PATH = re.compile(rf"(?<![\w./-])(?:(?:{TOP_LEVEL})/[\w./${{}}-]*[\w}}]|[A-Z]+\.md|constraints\.txt|pyproject\.toml)")


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["jobs"]
    return found


def strings(node: object) -> Iterator[str]:
    """Every text in a YAML or JSON document."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)


def named_targets(command: str) -> set[str]:
    """The targets of every `make` in a shell command."""
    targets = set()
    for part in re.split(r"&&|\|\||;|\n|[|>]", command):
        words = shlex.split(part)
        if words[:1] == ["make"]:
            targets |= {word for word in words[1:] if not word.startswith("-") and "=" not in word}
    return targets


def expanded(path: str, matrix: dict[str, list[str]]) -> list[str]:
    """A path with each value of the matrix in its place."""
    paths = [path]
    for name, values in matrix.items():
        place = f"${{{{ matrix.{name} }}}}"
        paths = [p.replace(place, str(value)) for p in paths for value in values]
    return paths


def matrix_of(job: dict[str, Any]) -> dict[str, list[str]]:
    matrix: dict[str, list[str]] = job.get("strategy", {}).get("matrix", {})
    return matrix


def python_versions() -> list[str]:
    prefix = "Programming Language :: Python :: 3."
    return [entry.removeprefix(prefix[:-2]) for entry in PROJECT["classifiers"] if entry.startswith(prefix)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_make_target_of_a_workflow_exists(path: Path) -> None:
    commands = [step.get("run", "") for job in jobs(path).values() for step in job["steps"]]
    named = {target for command in commands for target in named_targets(command)}
    assert named, f"{path.name} runs no make target"
    assert named <= make_targets()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_file_of_a_workflow_exists(path: Path) -> None:
    for job in jobs(path).values():
        for text in strings(job["steps"]):
            for whole in expanded(text, matrix_of(job)):
                for name in PATH.findall(whole):
                    assert (ROOT / name).exists(), f"{path.name} names {name}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_few_rights_and_ends(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 90 for job in jobs(path).values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_need_only_jobs_that_exist(path: Path) -> None:
    for job in jobs(path).values():
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= set(jobs(path))


def test_ci_runs_every_python_that_the_package_claims() -> None:
    assert jobs(ROOT / ".github/workflows/ci.yml")["quick"]["strategy"]["matrix"]["python"] == python_versions()


def test_the_oldest_python_is_the_same_everywhere() -> None:
    oldest = python_versions()[0]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert PROJECT["requires-python"] == f">={oldest}"
    assert settings["mypy"]["python_version"] == oldest
    assert settings["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in (ROOT / "Makefile").read_text()


def test_every_python_that_a_workflow_sets_up_is_claimed() -> None:
    for path in WORKFLOWS:
        for text in re.findall(r"python-version: \"([\d.]+)\"", path.read_text()):
            assert text in python_versions(), path.name


def test_hooks_run_only_local_programs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"], "other repositories are downloaded"
    programs = {program.split("[")[0].split(">")[0] for program in PROJECT["optional-dependencies"]["dev"]}
    packages = {"ruff": "ruff", "lint-imports": "import-linter"}
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        entry = shlex.split(hook["entry"])
        if entry[0] == "make":
            assert entry[1] in make_targets()
        else:
            folder, _, program = entry[0].rpartition("/")
            assert folder == ".venv/bin"
            assert packages[program] in programs


def test_the_dev_container_builds_with_targets_that_exist() -> None:
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text()
    settings = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert named_targets(settings["postCreateCommand"]) <= make_targets()
    python = re.search(r"python:([\d.]+)-", settings["image"])
    assert python is not None
    assert python[1] in python_versions()
    go = re.search(r"^go (\d+\.\d+)", (ROOT / "tools/sponge_cluster/native/go.mod").read_text(), re.MULTILINE)
    assert go is not None
    assert settings["features"]["ghcr.io/devcontainers/features/go:1"]["version"] == go[1]


@pytest.mark.parametrize("folder", ["ISSUE_TEMPLATE"])
def test_issue_forms_ask_for_what_is_needed(folder: str) -> None:
    for path in (ROOT / ".github" / folder).glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.stem == "config":
            continue
        assert {"name", "description", "body"} <= set(form)
        identifiers = [field["id"] for field in form["body"] if "id" in field]
        assert len(identifiers) == len(set(identifiers))
        assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_dependency_updates_watch_folders_that_exist() -> None:
    manifests = {
        "pip": "pyproject.toml",
        "gomod": "go.mod",
        "docker": "*Dockerfile",
        "github-actions": ".github/workflows/*.yml",
    }
    for update in yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]:
        folder = ROOT / update["directory"].lstrip("/")
        assert list(folder.glob(manifests[update["package-ecosystem"]])), update["directory"]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md"])
def test_links_between_the_documents_of_the_top_folder_work(name: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text()):
        assert (ROOT / link).exists(), f"{name} links to {link}"
