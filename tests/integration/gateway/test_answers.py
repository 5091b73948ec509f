"""Kept answers on a real Valkey: kept until a window closes, never stale for long, and not needed.

Seen to fail for: a stale answer that is kept although a window closed while it was computed, another gateway's answer
that survives a window, an age that is not looked at, an error of a dead server that reaches the caller.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
import redis.asyncio
from msgspec import Struct
from prometheus_client import CollectorRegistry

from engine.metering.records import PostedWindow
from gateway.answers import RedisAnswers, of_participant, of_zone
from gateway.metrics import GatewayMetrics
from persistence.embedded import EmbeddedValkey
from tests.support.patience import HUNG_SECONDS, eventually

ANN, BOB = of_participant(1), of_participant(2)


class Told(Struct, frozen=True):
    number: int


class Source:
    """What answers are computed from; counts how often."""

    def __init__(self) -> None:
        self.number = 0
        self.asked = 0

    async def __call__(self) -> Told:
        self.asked += 1
        return Told(self.number)


@asynccontextmanager
async def gateway(url: str, seconds: int = 60) -> AsyncIterator[RedisAnswers]:
    """One gateway's answers, with the task that drops what is stale."""
    client = redis.asyncio.from_url(url, socket_timeout=HUNG_SECONDS, socket_connect_timeout=HUNG_SECONDS)
    answers = RedisAnswers(client, GatewayMetrics(CollectorRegistry()), seconds)
    task = asyncio.create_task(answers.run())
    try:
        yield answers
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.aclose()


@pytest_asyncio.fixture
async def answers(redis_url: str) -> AsyncIterator[RedisAnswers]:
    async with gateway(redis_url) as made:
        yield made


def closed(owner_id: int = 1, zone: str = "Z1") -> list[PostedWindow]:
    return [PostedWindow(1, bytes(16), 0, owner_id, zone, 1, 1, 1, 1, False)]


async def test_an_answer_is_computed_once_for_all_gateways(answers: RedisAnswers, redis_url: str) -> None:
    source = Source()
    async with gateway(redis_url) as other:
        first = await answers.of(ANN, ("q", 1), Told, source)
        source.number = 9
        second = await other.of(ANN, ("q", 1), Told, source)

    assert (first, second, source.asked) == (Told(0), Told(0), 1)


async def test_questions_and_scopes_do_not_answer_one_another(answers: RedisAnswers) -> None:
    for number, (scope, question) in enumerate([(ANN, ("q", 1)), (ANN, ("q", 2)), (BOB, ("q", 1)), (ANN, ("p", 1))]):
        source = Source()
        source.number = number
        assert await answers.of(scope, question, Told, source) == Told(number)


async def test_a_window_that_closes_makes_its_owner_and_zone_stale_at_once(answers: RedisAnswers) -> None:
    source = Source()
    for scope in (ANN, BOB, of_zone("Z1"), of_zone("Z2")):
        await answers.of(scope, (), Told, source)
    source.number = 7

    answers.windows_closed(closed())

    told = [await answers.of(scope, (), Told, source) for scope in (ANN, BOB, of_zone("Z1"), of_zone("Z2"))]
    assert [one.number for one in told] == [7, 0, 7, 0]


async def test_every_gateway_hears_of_it_so_none_reads_what_the_other_kept(
    answers: RedisAnswers, redis_url: str
) -> None:
    source = Source()
    async with gateway(redis_url) as other:
        await other.of(ANN, (), Told, source)
        source.number = 7
        answers.windows_closed(closed())  # this one is quicker to hear of it

        async def is_gone() -> bool:
            return await other.of(ANN, (), Told, source) == Told(7)

        await eventually(is_gone)


async def test_what_was_being_computed_when_a_window_closed_is_not_kept(answers: RedisAnswers) -> None:
    source = Source()

    async def slow() -> Told:
        told = await source()
        answers.windows_closed(closed())
        await asyncio.sleep(0.05)  # the task drops the scope meanwhile: nothing else may stand in the way
        return told

    await answers.of(ANN, (), Told, slow)
    source.number = 7

    assert await answers.of(ANN, (), Told, source) == Told(7)


async def test_when_everything_is_stale_nothing_is_told(answers: RedisAnswers, redis_url: str) -> None:
    source = Source()
    async with gateway(redis_url) as other:
        for scope in (ANN, BOB):
            await other.of(scope, (), Told, source)
        source.number = 7
        answers.all_stale()

        assert await answers.of(ANN, (), Told, source) == Told(7)

        async def is_stale_there() -> bool:
            return await other.of(BOB, (), Told, source) == Told(7)

        await eventually(is_stale_there)


async def test_answers_do_not_stay_and_are_bounded(answers: RedisAnswers, redis_url: str) -> None:
    source = Source()
    for number in range(100):
        await answers.of(ANN, (number,), Told, source)

    async with redis.asyncio.from_url(redis_url) as client:
        assert await client.hlen("wattbook:answers:user:1") == 64
        assert 0 < await client.ttl("wattbook:answers:user:1") <= 60


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_without_valkey_answers_are_computed(tmp_path: Path, when: str) -> None:
    tmp_path.chmod(0o711)
    source = Source()
    server = EmbeddedValkey(tmp_path)
    async with gateway(await asyncio.to_thread(server.start)) as answers:
        assert await answers.of(ANN, (), Told, source) == Told(0)
        if when == "before":
            await asyncio.to_thread(server.stop)
        source.number = 7

        async def compute() -> Told:
            if when == "meanwhile":
                await asyncio.to_thread(server.stop)
            return await source()

        answers.windows_closed(closed())
        assert await answers.of(ANN, ("other",), Told, compute) == Told(7)
        assert await answers.of(ANN, (), Told, source) == Told(7)
