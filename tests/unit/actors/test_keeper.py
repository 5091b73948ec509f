"""What the exchange stands on is started again so many times, and then given up with a reason.

Seen to fail for: no bound on restarts; a claim taken by another that is only waited for; an absence that is told of at
once, again and again, or never.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from actors import keeper
from actors.keeper import GivenUp
from tests.support.virtual_loop import VirtualLoop


class FlakyServer:
    """Ends after a while, as often as it is started; `broken` starts fail."""

    name = "flaky"

    def __init__(self, clock: Callable[[], float], lives_seconds: float, broken: int = 0) -> None:
        self._clock, self._lives, self._broken = clock, lives_seconds, broken
        self.starts = 0
        self._until = 0.0

    @property
    def running(self) -> bool:
        return self._clock() < self._until

    def restart(self) -> str:
        self.starts += 1
        if self._broken:
            self._broken -= 1
            raise RuntimeError("planted: it does not start")
        self._until = self._clock() + self._lives
        return "address"


class LostClaim:
    """Held until it is lost, then in somebody else's hands for a while."""

    def __init__(self, clock: Callable[[], float], free_at: float) -> None:
        self._clock, self._free_at = clock, free_at
        self.held = False
        self.taken = 0

    async def take(self) -> bool:
        self.held = self._clock() >= self._free_at
        self.taken += self.held
        return self.held

    async def is_held(self) -> bool:
        return self.held


@contextmanager
def virtual() -> Iterator[tuple[VirtualLoop, Callable[[Coroutine[Any, Any, None]], None]]]:
    """Threads do not exist in virtual time: what would block runs at once."""
    loop = VirtualLoop(random.Random(0))

    async def at_once(function: Callable[..., Any]) -> Any:
        return function()

    with (
        mock.patch.object(keeper, "monotonic", loop.time),
        mock.patch.object(asyncio, "to_thread", at_once),
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        yield loop, runner.run


def for_seconds(seconds: float, keeping: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
    async def run() -> None:
        task = asyncio.create_task(keeping)
        await asyncio.wait([task], timeout=seconds)
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait([task])

    return run()


def test_a_server_that_ends_now_and_then_is_kept_for_ever() -> None:
    said: list[str] = []
    with virtual() as (loop, run):
        server = FlakyServer(loop.time, lives_seconds=120)

        run(for_seconds(2 * 3_600, keeper.keep_running(server, said.append)))

    assert 58 <= server.starts <= 60
    assert any("runs again" in line for line in said)


def test_a_server_that_ends_again_and_again_is_given_up() -> None:
    with virtual() as (loop, run):
        server = FlakyServer(loop.time, lives_seconds=1)

        with pytest.raises(GivenUp, match="flaky ended"):
            run(for_seconds(3_600, keeper.keep_running(server, lambda _: None)))

    assert server.starts == keeper.RESTARTS_MAX


def test_a_start_that_fails_is_said_and_tried_again() -> None:
    said: list[str] = []
    with virtual() as (loop, run):
        server = FlakyServer(loop.time, lives_seconds=10_000, broken=3)

        run(for_seconds(60, keeper.keep_running(server, said.append)))
        assert server.running

    assert server.starts == 4
    assert sum("planted: it does not start" in line for line in said) == 3


def test_a_lost_claim_is_taken_again_once_our_own_old_session_has_gone() -> None:
    said: list[str] = []
    with virtual() as (loop, run):
        claim = LostClaim(loop.time, loop.time() + 8)

        run(for_seconds(60, keeper.keep_claim(claim, said.append)))

    assert claim.taken == 1
    assert said == ["the database is ours again"]


def test_a_claim_that_another_keeps_is_given_up() -> None:
    with virtual() as (loop, run):
        claim = LostClaim(loop.time, loop.time() + 10_000)

        with pytest.raises(GivenUp, match="another Wattbook"):
            run(for_seconds(600, keeper.keep_claim(claim, lambda _: None)))


def test_who_stays_away_is_told_of_once_and_his_return_too() -> None:
    said: list[str] = []
    seen = iter([{"meters-0"}, set(), {"chain", "meters-0"}, None, {"meters-0"}, {"meters-0"}, {"gateway-1"}, set()])

    async def absent() -> frozenset[str]:
        names = next(seen, set())
        if names is None:
            raise OSError("planted")
        return frozenset(names)

    with virtual() as (_, run):
        run(for_seconds(10 * keeper.ABSENT_LOOK_SECONDS, keeper.tell_of_the_absent(absent, said.append)))

    assert said == ["not up: meters-0; logs/supervisor.log says more", "up again: meters-0"]
