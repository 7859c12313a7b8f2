"""Partial pod templates from files, for the operator and for `sponge profile --in-cluster`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sponge_operator.resources.template import TemplateError, read_template


def test_a_template_is_read_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("spec: {nodeSelector: {kind: fast}}")
    assert read_template(file, "--template") == {"spec": {"nodeSelector": {"kind": "fast"}}}


@pytest.mark.parametrize(
    ("text", "message"), [("- a", "partial pod template"), ("kind: Pod", "metadata and spec"), ("{", "--template")]
)
def test_a_file_without_a_template_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(text)
    with pytest.raises(TemplateError, match=message):
        read_template(file, "--template")
    with pytest.raises(TemplateError, match="No such file"):
        read_template(tmp_path / "none.yaml", "--template")
