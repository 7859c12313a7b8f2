"""Following what the load generator writes, however its writes are cut."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sponge_demo.session import WholeLines


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["sent_at", "outcome"]), st.integers() | st.text('a"\\\n{', max_size=5)),
        max_size=6,
    ),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_a_line_is_read_once_and_whole_wherever_a_write_ends(records: list[dict[str, object]], cuts: list[int]) -> None:
    text = "".join(json.dumps(record) + "\n" for record in records)
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    seen: list[dict[str, object]] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        lines = WholeLines(file)
        for begin, end in itertools.pairwise(places):
            at = file.tell()
            file.seek(0, 2)
            file.write(text[begin:end])
            file.seek(at)
            seen += [json.loads(line) for line in lines.new()]
    assert seen == records


def test_the_beginning_of_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    with path.open("w", encoding="utf-8") as writer, path.open(encoding="utf-8") as reader:
        lines = WholeLines(reader)
        for part, expected in (('{"a": 1}\n{"b', ['{"a": 1}']), ('": "x', []), ('yz"}\n', ['{"b": "xyz"}'])):
            writer.write(part)
            writer.flush()
            assert lines.new() == expected
