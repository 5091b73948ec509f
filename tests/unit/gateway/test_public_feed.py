"""Public news told in rounds: whoever comes and goes, his book is the market's, with no gap and no trade lost.

Seen to fail for: a newcomer let in at once, the newest commit's changes told instead of the merged ones, the rest of a
round told to who has unsubscribed, what came as the last round ended left for the next commit.
"""

import asyncio
import random
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from engine.market import Phase
from engine.messages import Side
from engine.views import BookView, Feed, Level, LevelChange, TradeView
from gateway.message import Message
from gateway.public_feed import BOOK, READERS_AT_ONCE, TICKER, TRADES, TRADES_WAITING_MAX, PublicFeed
from gateway.wire import checksum
from tests.unit.gateway.conftest import spot

MANY = 5 * READERS_AT_ONCE
EPOCH_US = 900_000_000


class Client:
    """Believes nothing: each delta must begin where the one before has ended, and come to its own checksum."""

    def __init__(self) -> None:
        self.sequence = -1
        self.levels: dict[str, dict[str, Any]] = {"bids": {}, "asks": {}}
        self.trades: list[int] = []
        self.gaps: list[int] = []
        self.deltas = 0
        self.ticker: Any = None
        self.is_reading = True

    def push(self, message: Message) -> None:
        assert self.is_reading
        body = msgspec.json.decode(message.text)
        kind = body["channel"], body["type"]
        if kind == (BOOK, "snapshot"):
            self.levels = {side: {level[0]: level for level in body[side]} for side in self.levels}
            self.sequence = body["sequence"]
        elif kind == (BOOK, "delta"):
            assert body["previous_sequence"] == self.sequence
            assert body["sequence"] > self.sequence
            self.sequence, self.deltas = body["sequence"], self.deltas + 1
            for side, levels in self.levels.items():
                for level in body[side]:
                    levels.pop(level[0], None)
                    if level[1] != "0.000":
                        levels[level[0]] = level
            assert checksum(*self.best()) == body["checksum"]
        elif kind == (TRADES, "update"):
            self.trades += [int(trade["trade_id"].split("-")[1]) for trade in body["trades"]]
        elif kind == (TRADES, "gap"):
            self.gaps.append(body["sequence"])
        else:
            self.ticker = body

    def balances_changed(self, market_id: int) -> None:
        raise AssertionError(market_id)

    def best(self) -> tuple[list[Any], list[Any]]:
        return tuple(  # type: ignore[return-value]
            sorted(self.levels[side].values(), key=lambda level: Decimal(level[0]) * sign)[:10]
            for side, sign in (("bids", -1), ("asks", 1))
        )


class Market:
    """Commits at random, and the feed that hears of them."""

    def __init__(self, seed: int) -> None:
        self.feed, self._chance = PublicFeed(spot()), random.Random(seed)
        self.sequence = self.trades = 0
        self.feed.snapshot(BookView(0, (), (Level(9_000_000, 1, 1),)))

    def commit(self, trades: int = 1) -> None:
        chance = self._chance
        self.sequence += 1
        changes = tuple(
            LevelChange(Side.BUY if price < 20 else Side.SELL, price * 100_000, chance.randrange(3) * 1_000, 1)
            for price in {chance.randrange(1, 40) for _ in range(chance.randrange(4))}
        )
        self.feed.news(Feed(1, self.sequence, changes, self._traded(trades), (), Phase.OPEN), EPOCH_US)

    def _traded(self, count: int) -> tuple[TradeView, ...]:
        self.trades += count
        numbers = range(self.trades - count + 1, self.trades + 1)
        return tuple(
            TradeView(number, self.sequence, 3_000_000, 1_000, Side.BUY, "Z1", "Z1", 1, EPOCH_US, False)
            for number in numbers
        )

    def join(self, *channels: str) -> Client:
        client = Client()
        for channel in channels:
            self.feed.subscribe(channel, client, EPOCH_US)
        return client

    async def rest(self) -> None:
        """Until everybody has heard."""
        while (rounds := vars(self.feed)["_rounds"]) is not None:
            await asyncio.wait([rounds])
            await asyncio.sleep(0)

    def agrees_with(self, client: Client) -> bool:
        replica = self.feed.replica
        return client.sequence == self.sequence and checksum(*client.best()) == replica.checksum()


@pytest.mark.parametrize("seed", range(20))
async def test_who_comes_and_goes_in_the_middle_has_the_book_and_every_trade(seed: int) -> None:
    chance, market = random.Random(seed), Market(seed)
    first = [market.join(BOOK, TRADES) for _ in range(MANY)]
    later: list[Client] = []
    for _ in range(400):
        market.commit()
        if chance.random() < 0.3:
            later.append(market.join(BOOK, TICKER))
        if chance.random() < 0.1:
            gone = first.pop()
            market.feed.forget(gone)
            gone.is_reading = False
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    await market.rest()

    assert all(market.agrees_with(client) for client in first + later)
    assert all(client.trades == list(range(1, market.trades + 1)) for client in first)
    assert all(client.ticker["sequence"] == market.sequence for client in later)
    assert first[0].deltas < 400  # merged, or this test has shown nothing


async def test_a_few_readers_hear_of_each_commit_at_once() -> None:
    market = Market(1)
    few = [market.join(BOOK) for _ in range(READERS_AT_ONCE)]
    for _ in range(50):
        market.commit()
        assert all(market.agrees_with(client) for client in few)
    assert {client.deltas for client in few} == {50}


async def test_what_comes_as_the_last_round_ends_is_told() -> None:
    market = Market(1)
    clients = [market.join(BOOK) for _ in range(MANY)]
    market.commit()
    rounds = vars(market.feed)["_rounds"]
    while not rounds.done():  # noqa: ASYNC110 - an event would be set a turn too late
        await asyncio.sleep(0)
    market.commit()  # before the loop has told anybody that the task is done
    await asyncio.sleep(0)
    await market.rest()

    assert all(market.agrees_with(client) for client in clients)


async def test_too_many_trades_between_two_rounds_are_a_gap() -> None:
    market = Market(1)
    clients = [market.join(TRADES) for _ in range(MANY)]
    market.commit()
    await asyncio.sleep(0)
    market.commit(TRADES_WAITING_MAX + 1)
    gap = market.sequence
    market.commit()
    await market.rest()

    assert {tuple(client.gaps) for client in clients} == {(gap,)}
    assert {client.trades[-1] for client in clients} == {market.trades}
    assert {len(client.trades) for client in clients} == {2}


async def test_a_lost_connection_is_one_delta_and_a_gap_of_trades() -> None:
    market = Market(1)
    client = market.join(BOOK, TRADES)
    market.sequence = 9
    market.feed.snapshot(BookView(9, (Level(1_000_000, 5, 1),), ()))

    assert market.agrees_with(client)
    assert (client.deltas, client.gaps) == (1, [9])
