"""A given profile serves by the sizes that the model declares, whatever the profile's file says of them."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from virtual_time import INFO

from sponge_profiles.points import GridPoint, SizedPoint
from sponge_profiles.profile import Profile
from sponge_server.startup.startup import of_declared_sizes
from sponge_server.workers.interface import ModelInfo
from sponge_server.workers.row_size import RowSize
from sponge_server.workers.tensors import TensorSpec

TOKENS = replace(INFO, inputs=(TensorSpec("ids", "INT64", (-1,)),), size=RowSize("ids", most=400, least=8))
PLAIN = Profile.from_points(
    [GridPoint(batch=batch, threads=1, p50_ms=10.0 * batch, p95_ms=10.0 * batch, n=9) for batch in (1, 4)],
    name="texts",
    model="texts",
    source="virtual",
    machine="none",
    percentile=95,
)
SIZED = PLAIN.with_sizes(
    [SizedPoint(batch=1, threads=1, size=size, p50_ms=size / 5, n=9) for size in (10.0, 50.0, 250.0)], 50.0, "padded"
)


@pytest.mark.parametrize(
    ("profile", "info", "join", "said"),
    [
        (PLAIN, INFO, None, None),
        (SIZED, TOKENS, "alike", None),  # as the model joins them
        (PLAIN, TOKENS, None, "profile.without_sizes"),
        (SIZED, INFO, None, "profile.sizes_unused"),
    ],
    ids=["neither", "both", "only the model", "only the profile"],
)
def test_sizes_count_where_model_and_profile_have_them(
    profile: Profile, info: ModelInfo, join: str | None, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        model = of_declared_sizes(profile, info)
    assert (None if model.sizes is None else model.sizes.join) == join
    assert [said] * (said is not None) == [record.getMessage().split()[0] for record in caplog.records]
