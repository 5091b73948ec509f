"""An owner that slept through its succession, and wakes up with doubts about its last append.

Found by test_node_loss.py: the old owner opened the journal again, which made it the owner again and fenced the market
that served. When its node was then taken away, nobody was left to serve.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from actors.hosting import Host
from actors.links import Links, Place
from engine.journal import Fenced, JournalRow
from engine.messages import CancelAll, Side
from engine.views import Failed, OrderAnswer
from persistence.journal import PostgresJournal
from tests.support.exchange import SECRET, Exchange, order, running
from tests.support.patience import eventually


class Sleeper(PostgresJournal):
    """A real journal whose next append comes to nothing that anybody knows."""

    asleep = False

    async def append(self, row: JournalRow) -> None:
        if self.asleep:
            self.asleep = False
            raise TimeoutError("planted: the commit took longer than its owner waits")
        await super().append(row)


@pytest_asyncio.fixture
async def exchange(database: str, pool: "asyncpg.Pool[asyncpg.Record]") -> AsyncIterator[Exchange]:
    async with running(database, pool) as started:
        yield started


async def test_an_owner_in_doubt_does_not_take_the_market_back_from_its_successor(exchange: Exchange) -> None:
    spec = await exchange.open_market("M")
    journal = Sleeper(exchange.dsn)
    first = exchange.start_market("M", journal)
    buyer = await exchange.trader("buyer")
    await exchange.placed("M", order(buyer, Side.BUY, "3.000"))
    place = Place(spec, first.address)
    exchange.tasks["first"] = exchange.tasks.pop("M")
    second = exchange.start_market("M")
    await eventually(lambda: second.status()["state"], lambda state: state == "serving")

    journal.asleep = True
    answer = await _to_the_first(place, CancelAll(buyer))

    assert isinstance(answer, Failed)
    await eventually(lambda: first.status()["state"], lambda state: state == "fenced")
    await eventually(lambda: exchange.links.submit(spec.market_id, order(buyer, Side.BUY, "3.001")), _is_placed)
    assert second.status()["state"] == "serving"


async def test_an_owner_in_doubt_without_a_successor_opens_again(exchange: Exchange) -> None:
    await exchange.open_market("M")
    journal = PostgresJournal(exchange.dsn)

    generations = [await journal.open(1), await journal.open(1)]
    rival = PostgresJournal(exchange.dsn)
    generations.append(await rival.open(1))

    assert generations == [1, 2, 3]
    with pytest.raises(Fenced):
        await journal.open(1)
    await journal.close()
    await rival.close()


async def test_a_part_that_ends_by_itself_takes_its_process_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that Ray starts a fresh one: a market that was fenced would else be up and serve nobody, for ever."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    host = Host.__new__(Host)

    await Host.__init__(host, _brief_part)
    await eventually(lambda: exits, lambda seen: seen == [1])


class _Brief:
    async def run(self) -> None:
        await asyncio.sleep(0)

    async def drain(self) -> None: ...

    def status(self) -> dict[str, Any]:
        return {}


async def _brief_part() -> _Brief:
    return _Brief()


async def _to_the_first(place: Place, command: CancelAll) -> object:
    """The answer of the market that listens there, whoever the directory names."""

    async def there(*, waits: bool = False) -> list[Place]:
        return [place]

    links = Links(there, SECRET)
    task = asyncio.create_task(links.run())
    try:
        await eventually(lambda: bool(links.markets()))
        return await links.submit(place.spec.market_id, command)
    finally:
        task.cancel()
        await asyncio.wait([task])


def _is_placed(answer: object) -> bool:
    return isinstance(answer, OrderAnswer)
