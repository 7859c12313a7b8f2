"""A function in a fork of this process, which may have had threads before."""

from __future__ import annotations

import pytest
import torch

from sponge_server.workers.forked_call import forked_call

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
