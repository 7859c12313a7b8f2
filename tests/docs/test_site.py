"""The site is built strictly: a broken link or a page outside of the navigation fails."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_site_is_built_without_a_broken_link(site: Path) -> None:
    assert (site / "index.html").is_file()
    assert (site / "reference" / "settings.html").is_file()


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(?:https?:)?//", text), page.name
        assert not re.findall(r"<link[^>]* rel=\"?stylesheet\"?[^>]*(?:https?:)?//", text), page.name


def test_every_picture_of_a_page_is_there(site: Path) -> None:
    seen = 0
    for page in site.rglob("*.html"):
        for source in re.findall(r"<img [^>]*src=\"?([^\" >]+)", page.read_text()):
            if not source.startswith("data:"):
                seen += 1
                assert (page.parent / source).is_file(), f"{page.name}: {source}"
    assert seen > 10
