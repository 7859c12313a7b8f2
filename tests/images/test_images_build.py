"""What is built on which base, and what an image has to be before it counts as built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sponge_cluster.errors import ClusterError
from sponge_cluster.progress import SilentProgress
from sponge_images import build
from sponge_images.base import STAND_IN, base_image
from sponge_images.engine import Docker
from sponge_release.version import ROOT

OWN = "python:3.11-slim-bookworm"
COMPONENTS = ("kopf", "kubernetes", "fastapi", "torch")


@dataclass(frozen=True)
class Engine(Docker):
    """An engine that has some images, can pull some, and answers questions about those that it built.

    Attributes:
        answers: by the format of the question; "bill" is what an image holds.
        builds: the words of each build.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    here: set[str] = field(default_factory=set)
    pulls: set[str] = field(default_factory=set)
    answers: Mapping[str, str] = field(default_factory=dict)
    builds: list[tuple[str, ...]] = field(default_factory=list)

    def ask(self, *words: str, timeout_s: float = 60.0) -> str:
        match words:
            case ("image", "inspect", "--format", form, _):
                return self.answers.get(form, "")
            case ("image", "inspect", name) if name in self.here:
                return ""
            case ("pull", _, name) if name in self.pulls:
                self.here.add(name)
                return ""
            case ("run", *_, "/opt/sponge/sbom.cdx.json"):
                return self.answers["bill"]
            case ("run", *_):
                return "fine"
        raise ClusterError(f"no: {words}")

    def show(self, *words: str) -> None:
        self.builds.append(words)


def bill(*names: str) -> str:
    return json.dumps({"components": [{"name": name} for name in names]})


def answers(**changed: str) -> Mapping[str, str]:
    return {"{{.Size}}": "596000000", "{{.Config.User}}": "65532:65532", "bill": bill(*COMPONENTS)} | changed


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build, "OUT", tmp_path / "images")
    return tmp_path / "images"


@pytest.mark.parametrize("name", build.IMAGES)
@pytest.mark.parametrize(
    ("here", "pulls", "base"),
    [({OWN}, set(), OWN), (set(), {OWN}, OWN), ({STAND_IN}, set(), STAND_IN), ({OWN, STAND_IN}, set(), OWN)],
)
def test_the_base_is_the_files_own_if_it_can_be_had(
    monkeypatch: pytest.MonkeyPatch, name: str, here: set[str], pulls: set[str], base: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    dockerfile = ROOT / "deploy" / "docker" / f"{name}.Dockerfile"
    assert base_image(Engine(here=set(here), pulls=pulls), dockerfile, SilentProgress()) == base


@pytest.mark.parametrize(("user", "debian"), [(1000, True), (0, False)])
def test_without_a_base_and_without_the_means_to_make_one_the_error_names_the_pull(
    monkeypatch: pytest.MonkeyPatch, user: int, debian: bool
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if debian else None)
    dockerfile = ROOT / "deploy" / "docker" / "operator.Dockerfile"
    with pytest.raises(ClusterError, match=f"`docker pull {OWN}` fails.*Only root on Debian"):
        base_image(Engine(), dockerfile, SilentProgress())


def test_a_file_without_a_base_is_told(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:3.11\n")
    with pytest.raises(ClusterError, match="ARG BASE=IMAGE"):
        base_image(Engine(), tmp_path / "Dockerfile", SilentProgress())


def test_each_image_is_built_on_its_base_and_says_what_it_holds(out: Path) -> None:
    docker = Engine(here={OWN}, answers=answers())
    built = build.build_all(docker, SilentProgress(), "https://example.com/wheels")
    assert [(image.name, image.size) for image in built] == [("operator", 596_000_000), ("server", 596_000_000)]
    assert all(f"BASE={OWN}" in words for words in docker.builds)
    with_torch = [words for words in docker.builds if "TORCH_INDEX=https://example.com/wheels" in words]
    assert with_torch == [words for words in docker.builds if any("server.Dockerfile" in word for word in words)]
    # The stage that builds has a name, so that the engine keeps its layers.
    assert ["--target=build" in words for words in docker.builds] == [True, False, True, False]
    assert {path.name for path in out.iterdir()} == {"operator.cdx.json", "server.cdx.json"}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"{{.Config.User}}": ""}, "runs as root"),
        ({"{{.Config.User}}": "0:65532"}, "runs as root"),
        ({"{{.Config.User}}": "root"}, "runs as root"),
        ({"bill": bill("kopf", "fastapi")}, "lacks"),
        ({"bill": "{}"}, "lacks"),
    ],
)
def test_an_image_that_is_not_as_it_has_to_be_is_refused(changed: dict[str, str], says: str) -> None:
    with pytest.raises(ClusterError, match=says):
        build.build_all(Engine(here={OWN}, answers=answers(**changed)), SilentProgress(), "https://example.com")
