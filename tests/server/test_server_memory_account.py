"""The account of memory: what does not fit is refused, arriving messages take turns, and nothing is ever lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_server.memory_account import LARGEST_ACCOUNT_BYTES, Account, NoRoomError, account_bytes

GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory_limit", "size"), [(None, LARGEST_ACCOUNT_BYTES), (GIB, GIB // 8), (64 * GIB, LARGEST_ACCOUNT_BYTES)]
)
def test_the_account_follows_the_memory_limit(memory_limit: int | None, size: int) -> None:
    assert account_bytes(memory_limit) == size


def test_the_memory_is_bounded_and_comes_back() -> None:
    account = Account(100)
    first = account.open()
    first.take(60)
    with account.open() as second:
        with pytest.raises(NoRoomError):
            second.take(50)
        second.take(40)
        assert account.held == 100
    first.give_back(20)
    assert (account.held, first.held) == (40, 40)
    first.close()
    first.close()
    assert account.held == 0


def test_bytes_that_are_spent_already_count_and_shut_others_out() -> None:
    account = Account(100)
    with account.open() as lease, account.open() as other:
        lease.force(150)
        with pytest.raises(NoRoomError):
            other.take(1)
    assert account.held == 0


async def turns(account: Account, sizes: list[int]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(account.set_aside(size)) for size in sizes]
    await asyncio.sleep(0)
    return tasks


async def until_settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_arriving_messages_take_turns_in_their_order() -> None:
    account = Account(100)
    tasks = await turns(account, [40, 30, 30, 10])
    await until_settled()
    assert [task.done() for task in tasks] == [True, True, False, False], "at most 75 for messages that arrive"
    account.arrived(30)
    await until_settled()
    assert [task.done() for task in tasks] == [True, True, True, False]
    account.arrived(40)
    await until_settled()
    assert all(task.done() for task in tasks)
    account.arrived(40)
    assert account.held == 0


async def test_bodies_of_known_size_keep_room_beside_messages_and_shut_them_out() -> None:
    account = Account(100)
    await account.set_aside(75)
    with account.open() as lease:
        lease.take(25)
        account.arrived(75)
        lease.take(50)
        with pytest.raises(NoRoomError):
            await account.set_aside(30)
    await account.set_aside(30)


async def test_who_gives_up_its_turn_leaves_it_to_the_next() -> None:
    account = Account(100)
    first, second, third = await turns(account, [75, 75, 75])
    await until_settled()
    second.cancel()
    account.arrived(75)
    second.cancel()
    await until_settled()
    assert (first.done(), second.cancelled(), third.done()) == (True, True, True)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["message", "body", "gives up"]), st.integers(1, 75)), max_size=30))
def test_whatever_comes_and_goes_the_account_is_even(steps: list[tuple[str, int]]) -> None:
    async def play() -> None:
        account = Account(100)

        async def message(size: int) -> None:
            try:
                await account.set_aside(size)
            except NoRoomError:
                return
            try:
                await asyncio.sleep(0)
                assert account.held <= account.limit
            finally:
                account.arrived(size)

        tasks: list[asyncio.Task[None]] = []
        leases = []
        for kind, size in steps:
            if kind == "message":
                tasks.append(asyncio.create_task(message(size)))
            elif kind == "body":
                leases.append(account.open())
                try:
                    leases[-1].take(size)
                except NoRoomError:
                    leases.pop(0).close()
            elif tasks:
                tasks.pop(0).cancel()
            await asyncio.sleep(0)
            assert account.held <= account.limit
        for lease in leases:
            lease.close()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)
            await until_settled()
        assert account.held == 0

    asyncio.run(play())
