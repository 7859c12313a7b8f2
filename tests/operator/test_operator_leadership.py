"""Who leads: the rule as a table, and several candidates with one Lease in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VirtualLoop, run_virtual

from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.leadership.election import (
    LEASE_S,
    Election,
    Lease,
    Renew,
    Resign,
    Take,
    Wait,
    next_step,
    observe,
    renewed,
)
from sponge_operator.leadership.leader import Leader

MINE, OTHERS, FREE = Lease("me", "1", 10, 0), Lease("other", "1", 10, 0), Lease("", "1", 1, 0)


@pytest.mark.parametrize(
    ("lease", "seen_at", "held_since", "now", "expected"),
    [
        (None, 0, None, 0, Take(None)),
        (FREE, 0, None, 0, Take(FREE)),
        (MINE, 0, None, 0, Take(MINE)),  # of the former process in the same pod
        (OTHERS, 0, None, 9.9, Wait(1)),
        (OTHERS, 0, None, 10, Take(OTHERS)),
        (MINE, 0, 0, 0.5, Wait(1.5)),
        (MINE, 0, 0, 2, Renew(MINE)),
        (MINE, 0, 0, 6.9, Renew(MINE)),
        (MINE, 0, 0, 7, Resign()),
        (OTHERS, 1, 0, 1, Resign()),
        (None, 1, 0, 1, Resign()),
    ],
)
def test_the_next_step(
    lease: Lease | None, seen_at: float, held_since: float | None, now: float, expected: Any
) -> None:
    assert next_step(Election("me", lease, seen_at, held_since), now) == expected


def test_only_a_change_of_the_lease_counts_as_a_renewal() -> None:
    election = observe(Election("me"), OTHERS, 5.0)
    assert observe(election, OTHERS, 9.0) is election
    assert observe(election, Lease("other", "2", 10, 0), 9.0).seen_at == 9.0


def test_a_renewal_counts_from_when_it_was_sent() -> None:
    election = renewed(Election("me"), MINE, sent_at=3.0)
    assert election.may_act(9.9)
    assert not election.may_act(10.0)


class LeaseStore:
    """One Lease on an API server that can be cut off for each candidate."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._version = 0
        self.manifest: dict[str, Any] | None = None
        self.cut_off: set[str] = set()

    def client(self, name: str) -> Kube:
        return cast(Kube, _Client(self, name))

    def write(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        self._version += 1
        present = {} if self.manifest is None else self.manifest["spec"]
        self.manifest = {"metadata": {"resourceVersion": str(self._version)}, "spec": {**present, **spec}}
        return self.manifest


class _Client:
    def __init__(self, store: LeaseStore, name: str) -> None:
        self._store = store
        self._name = name

    async def _reach(self) -> None:
        await asyncio.sleep(0.01)
        if self._name in self._store.cut_off:
            await asyncio.sleep(30)
            raise ApiError(0, {"message": "no answer"})

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert (kind, namespace, name) == ("Lease", "ns", "op")
        await self._reach()
        return self._store.manifest

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        await self._reach()
        if self._store.manifest is not None:
            raise ApiError(409, {"message": "exists"})
        return self._store.write(manifest["spec"])

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        assert (kind, namespace, name) == ("Lease", "ns", "op")
        await self._reach()
        present = self._store.manifest
        wanted = patch.get("metadata", {}).get("resourceVersion")
        if present is None or wanted not in (None, present["metadata"]["resourceVersion"]):
            raise ApiError(409, {"message": "changed"})
        return self._store.write(patch["spec"])


class Candidates:
    """Operators of some names; `acting` has those whose loops run now."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.store = LeaseStore(loop)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.acting: set[str] = set()
        self.most = 0

    def start(self, name: str) -> None:
        leader = Leader(self.store.client(name), "ns", "op", name, self._loop.time, lambda _: None)

        async def act() -> None:
            assert leader.may_act()
            self.acting.add(name)
            self.most = max(self.most, len(self.acting))
            try:
                await asyncio.Event().wait()
            finally:
                self.acting.discard(name)

        self.tasks[name] = asyncio.create_task(leader.run(act))

    async def stop(self, name: str) -> None:
        self.tasks[name].cancel()
        with suppress(asyncio.CancelledError):
            await self.tasks[name]

    def kill(self, name: str) -> None:
        """It is gone without a word."""
        self.store.cut_off.add(name)
        self.tasks[name].cancel()

    async def end(self) -> None:
        for name in self.tasks:
            await self.stop(name)


def test_one_of_three_leads() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = Candidates(loop)
        for name in "abc":
            world.start(name)
        for _ in range(60):
            await asyncio.sleep(1)
            assert len(world.acting) == 1
        await world.end()
        assert world.most == 1

    run_virtual(scenario)


def test_a_clean_stop_hands_over_at_once() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = Candidates(loop)
        world.start("a")
        await asyncio.sleep(5)
        world.start("b")
        await asyncio.sleep(5)
        assert world.acting == {"a"}
        await world.stop("a")
        await asyncio.sleep(1.5)
        assert world.acting == {"b"}
        await world.end()

    run_virtual(scenario)


def test_a_leader_that_is_killed_is_followed_within_fifteen_seconds() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = Candidates(loop)
        world.start("a")
        await asyncio.sleep(1)
        world.start("b")
        await asyncio.sleep(20)
        world.kill("a")
        await asyncio.sleep(LEASE_S - 3)
        assert world.acting == set()
        await asyncio.sleep(6)
        assert world.acting == {"b"}
        await world.end()

    run_virtual(scenario)


def test_a_new_process_of_the_same_pod_leads_at_once() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = Candidates(loop)
        world.start("a")
        await asyncio.sleep(20)
        world.kill("a")
        await asyncio.sleep(1)
        world.store.cut_off.clear()
        world.start("a")
        await asyncio.sleep(0.5)
        assert world.acting == {"a"}
        await world.end()

    run_virtual(scenario)


def test_a_leader_that_is_cut_off_stops_before_another_begins() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = Candidates(loop)
        world.start("a")
        await asyncio.sleep(1)
        world.start("b")
        await asyncio.sleep(10)
        world.store.cut_off.add("a")
        stopped = began = 0.0
        while "b" not in world.acting:
            await asyncio.sleep(0.1)
            if "a" not in world.acting and not stopped:
                stopped = loop.time()
        began = loop.time()
        assert stopped
        assert began - stopped > 1, "no two act, with room for a slow machine"
        world.store.cut_off.clear()
        await asyncio.sleep(20)
        assert world.acting == {"b"}, "the former one waits"
        assert world.most == 1
        await world.end()

    run_virtual(scenario)


def test_an_outage_of_the_api_server_ends_the_leadership_and_nothing_else() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = Candidates(loop)
        world.start("a")
        await asyncio.sleep(5)
        world.store.cut_off.add("a")
        await asyncio.sleep(30)
        assert world.acting == set()
        world.store.cut_off.clear()
        await asyncio.sleep(4)
        assert world.acting == {"a"}
        await world.end()

    run_virtual(scenario)


@settings(max_examples=25)
@given(events=st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0.1, 15)), max_size=12))
def test_never_do_two_act(events: list[tuple[str, bool, float]]) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = Candidates(loop)
        for name in "abc":
            world.start(name)
        for name, cut, seconds in events:
            (world.store.cut_off.add if cut else world.store.cut_off.discard)(name)
            await asyncio.sleep(seconds)
        world.store.cut_off.clear()
        await asyncio.sleep(50)
        assert len(world.acting) == 1
        await world.end()
        assert world.most == 1

    run_virtual(scenario)


def test_what_acting_raises_ends_the_candidate_and_frees_the_lease() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        store = LeaseStore(loop)
        leader = Leader(store.client("a"), "ns", "op", "a", loop.time, lambda _: None)

        async def act() -> None:
            raise LookupError("no such kind")

        with pytest.raises(LookupError):
            await leader.run(act)
        assert store.manifest is not None
        assert store.manifest["spec"]["holderIdentity"] == ""

    run_virtual(scenario)
