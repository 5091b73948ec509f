"""Who stands behind a token: remembered shortly, looked at again beside the requests, and never longer than promised.

Seen to fail for: a second look that the request waits for, a look without end of freshness, a look that outlives a
change made here, a look beside for each request.
"""

import asyncio
from typing import Any

import pytest

from engine.records import UserRecord
from gateway.errors import Problem
from tests.support.patience import HUNG_SECONDS
from tests.unit.gateway.conftest import World


class Slow:
    """A store of people that answers when told to, and counts how often it was asked."""

    def __init__(self, people: Any) -> None:
        self._people = people
        self.looks = 0
        self.may_answer = asyncio.Event()

    async def by_id(self, user_id: int) -> UserRecord | None:
        self.looks += 1
        user: UserRecord | None = await self._people.by_id(user_id)
        await self.may_answer.wait()
        return user

    def __getattr__(self, name: str) -> Any:
        return getattr(self._people, name)


async def _slow(world: World) -> tuple[Slow, str, int]:
    """A person whom the gateway has just looked at."""
    person = await world.person()
    slow = Slow(world.people)
    world.gateway.callers._people = slow
    slow.may_answer.set()
    world.clock.pass_seconds(6)
    await world.gateway.callers.of(person.token, "")
    slow.may_answer.clear()
    slow.looks = 0
    return slow, person.token, person.user_id


async def test_who_keeps_asking_does_not_wait_for_the_store(world: World) -> None:
    slow, token, _ = await _slow(world)
    callers = world.gateway.callers

    world.clock.pass_seconds(3)  # of 5
    async with asyncio.timeout(HUNG_SECONDS):
        for _ in range(10):
            await callers.of(token, "")
            await asyncio.sleep(0)
    slow.may_answer.set()
    await asyncio.sleep(0.01)
    world.clock.pass_seconds(3)  # the first look would be too old now, the one beside is not

    slow.may_answer.clear()
    async with asyncio.timeout(HUNG_SECONDS):
        await callers.of(token, "")
        await asyncio.sleep(0)
    assert slow.looks == 2  # one beside ten requests, and a next one beside this
    slow.may_answer.set()


async def test_what_is_too_old_is_never_believed(world: World) -> None:
    slow, token, user_id = await _slow(world)
    await world.people.update(user_id, status="suspended")

    world.clock.pass_seconds(5)
    slow.may_answer.set()

    with pytest.raises(Problem, match="suspended"):
        await world.gateway.callers.of(token, "")


async def test_a_look_beside_does_not_outlive_a_change_made_here(world: World) -> None:
    slow, token, user_id = await _slow(world)
    callers = world.gateway.callers
    world.clock.pass_seconds(3)
    await callers.of(token, "")
    await asyncio.sleep(0)  # the look beside has seen him as he is, and waits

    await world.people.update(user_id, status="suspended")
    callers.forget(user_id)
    slow.may_answer.set()
    await asyncio.sleep(0.01)

    with pytest.raises(Problem, match="suspended"):
        await callers.of(token, "")
