"""The controller of one pod under refusals, in virtual time: it finds what is allowed, and never asks in a loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
from operator_world import World
from virtual_time import VirtualLoop, run_virtual

from sponge_core.quantities import cpu_quantity
from sponge_operator.autoscale.resize import Blocked
from sponge_operator.clients.kube import ApiError


def blocked(world: World) -> Blocked | None:
    assert world.controller is not None
    return world.controller.state.blocked


def quota(world: World, limit: int) -> Callable[[int], ApiError | None]:
    """A ResourceQuota that only this pod uses."""

    def refuse(milli: int) -> ApiError | None:
        if milli <= max(limit, world.quota):
            return None
        has = world.quota
        requested, used, limited = (f"limits.cpu={cpu_quantity(each)}" for each in (milli - has, has, limit))
        return ApiError(
            403, {"message": f"exceeded quota: team, requested: {requested}, used: {used}, limited: {limited}"}
        )

    return refuse


def webhook(limit: int) -> Callable[[int], ApiError | None]:
    """A policy that tells no figure."""
    message = 'admission webhook "cap.example.com" denied the request: too large'
    return lambda milli: ApiError(400, {"message": message}) if milli > limit else None


def test_a_quota_is_used_up_named_and_left_behind_when_it_is_gone() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=250)
        world.refusal = quota(world, 1000)
        await world.run(1.5)
        world.change(1500)
        await world.run(0.5)
        assert world.patches() == [1500, 1000]
        assert (found := blocked(world)) is not None
        assert found.reason == "QuotaExceeded"
        assert found.message.startswith("ResourceQuota team allows 1 cores: ")
        began, asked = loop.time(), len(world.patches())
        loop.call_later(60.0, setattr, world, "refusal", None)
        await world.run(72.0)
        assert (world.quota, blocked(world)) == (1500, None)
        refused = [at for at in world.times if at < began + 60.0]
        assert len(refused) < len(world.times)
        assert len(world.patches()) - asked <= 12  # the sizes beyond are tried ever less often
        assert [event[1] for event in world.events] == ["ResizeQuotaExceeded"]

    run_virtual(scenario)


def test_nothing_is_shown_as_blocked_once_nothing_more_is_wanted() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=250)
        world.refusal = quota(world, 500)
        await world.run(1.5)
        began = loop.time()
        world.change(1500)
        loop.call_later(3.0, partial(world.change, 250, urgent=False))
        shown: dict[float, str] = {}
        for at in (2.9, 6.0, 11.5):
            loop.call_later(
                at, lambda: shown.update({round(loop.time() - began, 1): getattr(blocked(world), "reason", "")})
            )
        await world.run(12.0)
        assert world.quota == 250
        assert shown == {2.9: "QuotaExceeded", 6.0: "QuotaExceeded", 11.5: ""}

    run_virtual(scenario)


@pytest.mark.parametrize("limit", [300, 700, 1400])
def test_the_largest_size_that_a_webhook_lets_pass_is_found(limit: int) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=250)
        world.refusal = webhook(limit)
        await world.run(1.5)
        world.change(1500)
        await world.run(8.0)
        assert world.quota == 250 + (limit - 250) // 125 * 125
        assert len(world.patches()) <= 10
        assert (found := blocked(world)) is not None
        assert found.reason == "AdmissionDenied"
        assert "cap.example.com" in found.message
        before = len(world.patches())
        await world.run(60.0)
        assert len(world.patches()) - before <= 12

    run_virtual(scenario)


def test_conflicts_are_retried_at_once() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=250)
        answers = itertools.chain(
            [ApiError(409, {"message": "the object has been modified"})] * 3, itertools.repeat(None)
        )
        world.refusal = lambda _: next(answers)
        world.change(1500)
        await world.run(0.5)
        assert world.patches() == [1500] * 4
        assert world.quota == 1500
        assert world.outcomes() == {"actuated": 1}

    run_virtual(scenario)


@pytest.mark.parametrize(
    ("error", "most", "back_within_s"),
    [
        (ApiError(0, {"message": "the API server does not answer"}), 13, 7.0),
        (ApiError(503, {}), 13, 7.0),
        (ApiError(403, {"message": "not yet ready to handle request"}), 13, 7.0),
        (ApiError(429, {"message": "too many requests"}, retry_after_s=8.0), 5, 11.0),
    ],
    ids=["silent", "503", "starting", "429"],
)
def test_an_api_server_in_trouble_is_asked_ever_less_often_and_used_soon_after(
    error: ApiError, most: int, back_within_s: float
) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=250)
        world.refusal = error
        world.change(1500)
        await world.run(30.0)
        assert 3 <= len(world.patches()) <= most
        assert (found := blocked(world)) is not None
        assert found.reason == "ApiServerBusy"
        world.refusal = None
        await world.run(back_within_s)
        assert (world.quota, blocked(world)) == (1500, None)

    run_virtual(scenario)


def test_a_missing_subresource_is_no_hot_loop() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=250)
        world.refusal = ApiError(404, {"message": "the server could not find the requested resource", "details": {}})
        world.change(1500)
        await world.run(60.0)
        assert len(world.patches()) <= 2
        assert [event[1] for event in world.events] == ["ResizeNoResizeApi"]

    run_virtual(scenario)
