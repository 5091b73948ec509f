"""Requests that take too long are ended, and nothing else is.

Planted and noticed: a deadline that stays in the table, one that ends all behind it, a cancellation of somebody else
that becomes a TimeoutError, an error that is replaced by one, a round that ends one at a time or is the last.
"""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.deadlines import ROUNDS, Deadlines
from tests.support.virtual_loop import VirtualLoop

SECONDS = 10.0


def run(world: Coroutine[Any, Any, None]) -> None:
    """In virtual time."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(random.Random(0))) as runner:
        runner.run(world)


def test_each_is_ended_when_its_own_time_is_over() -> None:
    async def late(deadlines: Deadlines, after: float) -> float:
        await asyncio.sleep(after)
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutError), deadlines.begin():
            await asyncio.sleep(1_000)
        return loop.time() - began

    async def world() -> None:
        deadlines = Deadlines(SECONDS)
        took = await asyncio.gather(*(late(deadlines, after) for after in (0.0, 0.0, 0.0, 0.0, 0.1, 7.0, 30.0)))
        assert all(SECONDS <= each <= SECONDS * (1 + 2 / ROUNDS) for each in took), took
        assert len(deadlines) == 0

    run(world())


def test_who_is_in_time_hears_nothing() -> None:
    async def world() -> None:
        deadlines = Deadlines(SECONDS)
        for _ in range(3):
            with deadlines.begin():
                await asyncio.sleep(SECONDS * 0.9)
        assert len(deadlines) == 0
        await asyncio.sleep(SECONDS * 3)

    run(world())


def test_a_cancellation_by_somebody_else_stays_one() -> None:
    async def cancelled(deadlines: Deadlines) -> None:
        with deadlines.begin():
            await asyncio.sleep(1_000)

    async def world() -> None:
        deadlines = Deadlines(SECONDS)
        task = asyncio.create_task(cancelled(deadlines))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(deadlines) == 0

    run(world())


def test_an_error_of_the_request_stays_its_own() -> None:
    async def world() -> None:
        deadlines = Deadlines(SECONDS)
        with pytest.raises(ZeroDivisionError), deadlines.begin():
            raise ZeroDivisionError
        assert len(deadlines) == 0

    run(world())


def test_what_a_late_request_says_at_its_end_stays() -> None:
    async def stubborn(deadlines: Deadlines) -> None:
        with deadlines.begin():
            try:
                await asyncio.sleep(1_000)
            except asyncio.CancelledError:
                raise ZeroDivisionError from None

    async def world() -> None:
        with pytest.raises(ZeroDivisionError):
            await stubborn(Deadlines(SECONDS))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(world())
