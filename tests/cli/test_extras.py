"""Every part imports with the packages of its own extra alone, and a command that lacks one names the extra."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Hides every distribution that the extra does not bring, then imports all modules of the packages.
IMPORT_WITH_EXTRA = """
import importlib, importlib.machinery, importlib.metadata as metadata, pkgutil, re, sys, tomllib

extra, packages = sys.argv[1], sys.argv[2:]

def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

def required(requirements, extras):
    for text in requirements:
        name, wanted, _, condition = re.match(r"([\\w.-]+)\\s*(?:\\[(.*?)\\])?([^;]*);?(.*)", text).groups()
        asked = re.search(r"extra\\s*==\\s*['\\"]([\\w.-]+)", condition)
        if not asked or asked[1] in extras:
            yield plain(name), [part.strip() for part in (wanted or "").split(",")]

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
allowed, todo = set(), []
def add_extra(name):
    for found, wanted in required(project["optional-dependencies"][name] if name else project["dependencies"], ()):
        if found == project["name"]:
            for other in wanted:
                add_extra(other)
        else:
            todo.append((found, wanted))
add_extra("")
if extra:
    add_extra(extra)
while todo:
    name, extras = todo.pop()
    if name in allowed and not any(extras):
        continue
    allowed.add(name)
    try:
        todo += required(metadata.distribution(name).requires or (), extras)
    except metadata.PackageNotFoundError:
        pass  # for another platform

hidden = {
    module for module, names in metadata.packages_distributions().items()
    if not module.startswith("sponge_") and not {plain(name) for name in names} & allowed
}

class WithoutHidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = WithoutHidden
for package in packages:
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(getattr(found, '__path__', ()), f"{package}."):
        importlib.import_module(module.name)
"""

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("extra", "packages"),
    [
        ("", ["sponge_client", "sponge_workload", "sponge_system", "sponge_cli.main", "sponge_cli.load"]),
        ("operator", ["sponge_operator", "sponge_cli.operator"]),
        (
            "simulator",
            ["sponge_simulator", "sponge_profiles", "sponge_cli.plan", "sponge_cli.simulate", "sponge_cli.tune"],
        ),
        pytest.param("server", ["sponge_server", "sponge_cli.serve", "sponge_cli.compile"], marks=pytest.mark.torch),
        pytest.param("profile", ["sponge_profiler", "sponge_cli.profile"], marks=pytest.mark.torch),
    ],
)
def test_a_part_imports_with_its_own_extra_alone(extra: str, packages: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_WITH_EXTRA, extra, *packages],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def sponge_without(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`sponge` where a package is not installed."""
    program = f"import sys; sys.modules[{package!r}] = None; sys.argv = {['sponge', *arguments]!r}\n"
    program += "from sponge_cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("pydantic_settings", "serve --model a=digits://", "server"),
        ("torch", "compile digits:// -o /tmp/never.pt2", "server"),
        ("kopf", "operator run", "operator"),
        ("scipy", "profile digits://", "profile"),
        ("pulp", "plan --profile yolov5s-paper --rate 20", "simulator"),
        ("yaml", "simulate --list", "simulator"),
    ],
)
def test_a_missing_package_names_the_extra_that_brings_it(package: str, command: str, extra: str) -> None:
    done = sponge_without(package, *command.split())
    needs = f"sponge: sponge {command.split()[0]} needs {package}: pip install 'sponge-serving[{extra}]'\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, needs, "")


@pytest.mark.parametrize(
    ("package", "command"),
    [("starlette", "demo"), ("plotly.offline", "demo"), ("matplotlib.figure", "demo"), ("yaml", "demo --simulate")],
)
def test_a_missing_package_of_a_tool_names_the_distribution(tmp_path: Path, package: str, command: str) -> None:
    done = sponge_without(package, *command.split(), "--out", str(tmp_path))
    hint = f"sponge: sponge demo needs {package.partition('.')[0]}, which sponge-tools brings: pip install sponge-tools"
    assert (done.returncode, done.stderr, done.stdout) == (2, f"{hint}\n", "")


def test_help_imports_no_part_and_no_tool() -> None:
    program = "import json, sys\nfrom sponge_cli.main import main\ntry: main()\nexcept SystemExit: pass\n"
    program += "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(done.stderr))
    assert "cluster" in done.stdout
    assert not loaded & {"aiohttp", "numpy", "pydantic", "rich", "torch", "yaml", "kopf", "starlette", "sponge_server"}
