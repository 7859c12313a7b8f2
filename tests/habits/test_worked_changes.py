"""The worked changes of CONTRIBUTING.md fit the source tree, and their commands do what the text says."""

from __future__ import annotations

from pathlib import Path

import pytest
from worked_changes import Block, ChangeError, Command, apply, commands, copy_tree, matches, run, sections

ROOT = Path(__file__).parents[2]
CHANGES = sections((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("source") / "tree"
    copy_tree(ROOT, tree)
    return tree


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("title", CHANGES)
def test_a_worked_change_works(title: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    copy_tree(ROOT, tree)
    ran = 0
    for block in CHANGES[title]:
        if block.language == "console":
            for command in commands(block):
                run(command, tree)
                ran += 1
        else:
            apply(block, tree)
    assert ran > 0, f"the worked change '{title}' runs no command"


def test_the_changes_that_a_newcomer_needs_are_worked_out() -> None:
    assert list(CHANGES) == ["A dispatch policy", "A model source", "A resize outcome"]


@pytest.mark.slow
@pytest.mark.parametrize("title", CHANGES)
def test_without_the_change_its_commands_fail(title: str, pristine: Path) -> None:
    """So that a command that checks nothing is noticed."""
    first = next(command for block in CHANGES[title] if block.language == "console" for command in commands(block))
    with pytest.raises(ChangeError, match="exits with"):
        run(first, pristine)


DIFF = " a = 1\n-b = 2\n+b = 3\n@@\n d = 4\n+e = 5\n"


def test_a_diff_changes_each_place(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("a = 1\nb = 2\nc = 0\nd = 4\n")
    apply(Block("diff", "m.py", DIFF), tmp_path)
    assert (tmp_path / "m.py").read_text() == "a = 1\nb = 3\nc = 0\nd = 4\ne = 5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = 9\nd = 4\n", r"these lines occur 0 times there, expected once:\na = 1\nb = 2\nAdapt"),
        ("a = 1\nb = 2\nd = 4\nd = 4\n", "occur 2 times"),
    ],
)
def test_a_diff_that_no_longer_fits_says_so(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.py").write_text(text)
    with pytest.raises(ChangeError, match=message):
        apply(Block("diff", "m.py", DIFF), tmp_path)
    assert (tmp_path / "m.py").read_text() == text


def test_a_moved_file_and_an_existing_one_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("")
    with pytest.raises(ChangeError, match=r"n\.py, but there is no such file"):
        apply(Block("diff", "n.py", DIFF), tmp_path)
    with pytest.raises(ChangeError, match=r"m\.py, but the file exists"):
        apply(Block("python", "m.py", "a = 1\n"), tmp_path)
    with pytest.raises(ChangeError, match="there is no folder gone"):
        apply(Block("python", "gone/m.py", "a = 1\n"), tmp_path)


def test_blocks_are_read_in_order() -> None:
    text = """# Title
## Three worked changes
### One
```python title="a/b.py"
x = 1
```
Text.
```console
$ run it
out ... put
$ again
```
## Another
### Not this
```sh
rm
```
"""
    first, second = sections(text)["One"]
    assert first == Block("python", "a/b.py", "x = 1\n")
    assert commands(second) == [Command("run it", "out ... put"), Command("again", "")]
    assert list(sections(text)) == ["One"]


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("", "anything", True),
        ("...", "", True),
        ("... 4 passed ...", "....\n4 passed in 1 s\n", True),
        ("... 4 passed ...", "5 passed", False),
        ("a\n b", "a b\n", True),
        ("a ... c", "a\nb\nc d", False),
    ],
)
def test_three_dots_stand_for_any_text(expected: str, output: str, same: bool) -> None:
    assert matches(expected, output) == same
