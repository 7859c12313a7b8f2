"""Every file, module and class that a page names exists: pages follow when the code moves."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

FOREIGN = {"docs/research/peers.md"}
"""Pages that name the classes of other projects."""

TOP = (
    *("bench", "cli", "client", "core", "crds", "deploy", "docs", "front", "model_server", "operator", "profiles"),
    *("simulator", "tests", "tools"),
)
FILE = re.compile(r"[\w./-]+\.(?:py|yaml|yml|md|toml|txt|svg|json|proto|html)")
NAME = re.compile(r"[A-Z][a-z]+[A-Z]\w*(?:\.[a-z_]+)?")
MADE_BY_THE_READER = {
    *("resnet18.yaml", "linear.yaml", "serve.yaml", "detect.yaml", "profile.yaml", "digits.yaml", "linear.pt2.json"),
    *("report.html", "report.md", "model.pt2.json", "shouting.py", "NAME.pt.json"),
    "envoy.json",
    *("config.json", "tokenizer.json", "preprocessor_config.json"),
}
"""Files of examples, those that a command writes, and those of a model of Hugging Face."""

KUBERNETES = {
    "HorizontalPodAutoscaler",
    "VerticalPodAutoscaler",
    "InferencePool",
    "LimitRange",
    "ResourceQuota",
    "InPlacePodVerticalScaling",
}
"""Kinds and feature gates of the cluster that the project does not create."""


@cache
def files() -> frozenset[str]:
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    found = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return frozenset(path for path in found if path and (ROOT / path).exists())


@cache
def folders() -> frozenset[str]:
    return frozenset(str(parent) for path in files() for parent in Path(path).parents)


@cache
def words() -> frozenset[str]:
    sources = [path for path in files() if path.endswith((".py", ".yaml")) and not path.startswith("tests/docs")]
    return frozenset(word for path in sources for word in re.findall(r"\w+", (ROOT / path).read_text()))


def code_of(page: str) -> list[str]:
    """The inline code of a page, without its fenced blocks."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    for text in code_of(page):
        for word in text.split():
            path = word.strip(",;()").partition("=")[2] or word.strip(",;()")
            if (
                path.startswith(("out/", "~", "/", "$", "http", "file:"))
                or "..." in path
                or Path(path).name in MADE_BY_THE_READER
            ):
                continue
            if path.partition("/")[0] in TOP and "/" in path:
                assert path in files() or path.rstrip("/") in folders(), f"{page} names {path}"
            elif FILE.fullmatch(path):
                assert any(f"/{file}".endswith(f"/{path}") for file in files()), f"{page} names {path}"


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_runs_exists(page: str) -> None:
    for module in re.findall(r"python -m ([\w.]+)", (ROOT / page).read_text()):
        path = module.replace(".", "/")
        assert {f"{path}.py", f"{path}/__main__.py"} & files() or module in {"json.tool", "mkdocs"}, f"{page}: {module}"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in FOREIGN])
def test_every_class_that_a_page_names_exists(page: str) -> None:
    for text in code_of(page):
        if NAME.fullmatch(text) and text not in KUBERNETES:
            for part in text.split("."):
                assert part in words(), f"{page} names {text}"


def test_a_page_that_names_what_is_gone_would_fail() -> None:
    assert "core/sponge_core/latency.py" in files()
    assert "core/sponge_core/batching.py" not in files()
    assert "core/sponge_core" in folders()
    assert "SpongeService" in words()
    assert "ThisClassIsNowhere" not in words()
