"""Building from a pinned module: what names the cache, which Go will do, and what is said when it cannot be done."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sponge_cluster import binaries
from sponge_cluster.errors import ClusterError
from sponge_cluster.go_module import GoModule, go_is_new_enough, module_versions
from sponge_cluster.progress import SilentProgress


def test_the_module_pins_every_version() -> None:
    versions = binaries.versions()
    assert set(versions) == {"kubernetes", "etcd", "helm"}
    assert all(version.startswith("v") for version in versions.values())


def test_every_staging_module_has_the_version_of_kubernetes() -> None:
    text = (binaries.MODULE.folder / "go.mod").read_text()
    _, minor, patch = module_versions(text)["k8s.io/kubernetes"].split(".")
    replaced = [line.split() for line in text.splitlines() if "=>" in line]
    assert len(replaced) > 25
    assert {words[-1] for words in replaced} == {f"v0.{minor}.{patch}"}
    assert all(words[0] == words[-2] for words in replaced)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GoModule:
    copy = tmp_path / "native"
    shutil.copytree(binaries.MODULE.folder, copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return replace(binaries.MODULE, folder=copy)


@pytest.mark.parametrize("source", ["go.mod", "go.sum", "tools.go", "etcd/main.go"])
def test_the_cache_changes_with_the_module(module: GoModule, source: str) -> None:
    before = module.cache_folder
    assert before.parent == module.folder.parent / "cache" / "sponge"
    assert before.name.startswith(f"bin-{binaries.versions()['kubernetes']}-")
    with (module.folder / source).open("a") as file:
        file.write("\n")
    assert module.cache_folder != before


@pytest.mark.parametrize(
    ("said", "needed", "enough"),
    [
        ("go version go1.26.0 linux/amd64", "1.26.0", True),
        ("go version go1.26.8 linux/amd64", "1.26.0", True),
        ("go version go1.27 linux/arm64", "1.26.0", True),
        ("go version go1.25.9 linux/amd64", "1.26.0", False),
        ("go version go1.26rc1 linux/amd64", "1.26.1", False),
        ("go version go1.9 linux/amd64", "1.26.0", False),
        ("gccgo (Debian) 12.2", "1.26.0", False),
    ],
)
def test_go_is_new_enough(said: str, needed: str, enough: bool) -> None:
    assert go_is_new_enough(said, needed) is enough


def test_the_programs_know_their_version() -> None:
    flags = binaries.link_flags({"k8s.io/kubernetes": "v1.36.3", "helm.sh/helm/v3": "v3.22.0"})
    assert "-X k8s.io/component-base/version.gitVersion=v1.36.3" in flags
    assert "-X k8s.io/component-base/version.gitMinor=36" in flags
    assert "-X helm.sh/helm/v3/internal/version.version=v3.22.0" in flags


def test_without_go_the_message_says_where_to_get_it(module: GoModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_args, **_kwargs: None)
    with pytest.raises(ClusterError, match=r"there is no `go`: install it from https://go\.dev/dl"):
        module.ensure(["etcd"], SilentProgress())


def test_an_old_go_is_refused(module: GoModule, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _program(tmp_path / "bin" / "go", "echo go version go1.19.8 linux/amd64")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    with pytest.raises(ClusterError, match=r"Go 1\.26\.0 or newer is needed.*go1\.19\.8"):
        module.ensure(["etcd"], SilentProgress())


def test_a_full_disk_is_noticed_before_the_build(
    module: GoModule, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _program(tmp_path / "bin" / "go", f"[ $1 = version ] && echo go1.99.0 || echo {tmp_path}/a/b {tmp_path}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=10**9))
    with pytest.raises(ClusterError, match=r"needs about 6 GB, .* has 1\.0 GB free"):
        module.ensure(["etcd"], SilentProgress())


def test_a_failed_build_leaves_nothing_and_says_why(
    module: GoModule, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = f'case $1 in version) echo go1.99.0;; env) echo {tmp_path};; build) echo "main.go:3: bad"; exit 1;; esac'
    _program(tmp_path / "bin" / "go", answers)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    with pytest.raises(ClusterError, match=r"building \./etcd failed: main\.go:3: bad"):
        module.ensure(["etcd"], SilentProgress())
    assert [path.name for path in module.cache_folder.iterdir()] == [".lock"]


def test_what_is_in_the_cache_is_not_built_again(module: GoModule, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = module.cache_folder
    folder.mkdir(parents=True)
    (folder / "etcd").touch()
    monkeypatch.setenv("PATH", "/nowhere")
    assert module.ensure(["etcd"], SilentProgress()) == {"etcd": folder / "etcd"}


def _program(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
