"""A function in a fork of this process, which may have had threads before."""

from __future__ import annotations

import pytest
import torch

from sponge_server.workers.forked_call import forked_call
from sponge_server.workers.interface import ModelError
from sponge_server.workers.ipc import Message

pytestmark = pytest.mark.torch


def test_a_fork_computes_though_its_parent_had_a_team_of_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        numbers = torch.rand(4_000_000)
        numbers.exp().sum()
        assert forked_call(lambda: {"sum": float(numbers.exp().sum())}, 20.0, "numbers")["sum"] > 0
    finally:
        torch.set_num_threads(before)


def test_what_a_library_raises_in_a_fork_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> Message:
        raise KeyError("no such layer")

    with pytest.raises(ModelError, match=r"^KeyError: 'no such layer'; the lines of Python are in the log$"):
        forked_call(fails, 20.0, "numbers")
    assert "in fails" in capfd.readouterr().err
