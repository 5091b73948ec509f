"""A market goes from one process to another while orders come: each is done once, in order, and none is refused.

Seen to fail for: an heir that takes over from where it had followed to, an owner that leaves with commands undone, an
heir that serves from the newest snapshot it can read instead of the one at the end.
"""

import asyncio

import asyncpg
import pytest

from actors import recovery
from actors.market import Market
from actors.succession import LEAVING, LEFT, STANDING_BY, Heir
from engine.messages import Side
from engine.records import Want
from engine.views import Answer, Failed, OrderAnswer, OrderStatus
from persistence.ledger import PostgresLedger
from tests.integration.actors.test_market import FaultyJournal
from tests.support.exchange import Exchange, order
from tests.support.patience import eventually

ORDERS = 60


class SlowLedger(PostgresLedger):
    """A real ledger that draws when it is told to."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        super().__init__(pool)
        self.hold = asyncio.Event()

    async def draw(self, market_id: int, number_first: int, wants: list[Want]) -> list[int]:
        await self.hold.wait()
        return await super().draw(market_id, number_first, wants)


def heir_of(exchange: Exchange, symbol: str) -> tuple[Market, Market]:
    """The market that serves, and another that stands by; the directory still names the first."""
    owner = exchange.markets[symbol]
    exchange.tasks["owner"] = exchange.tasks.pop(symbol)
    heir = exchange.start_market(symbol, stands_by=True)
    exchange.markets[symbol] = owner
    return owner, heir


async def standing_by(heir: Market, sequence: int) -> None:
    await eventually(heir.status, lambda one: one["state"] == STANDING_BY and one["sequence"] >= sequence)


async def move(exchange: Exchange, symbol: str, owner: Market, heir: Market, *, by_snapshot: bool = False) -> int:
    """As the supervisor does it; the last sequence of the owner."""
    exchange.markets[symbol] = heir
    sequence = await owner.hand_over(Heir(heir.address, by_snapshot))
    heir.take_over()
    return sequence


async def test_orders_that_come_while_the_market_moves_are_done_once_and_in_order(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    trader = await exchange.trader("trader")
    last = await exchange.placed("M", order(trader, Side.BUY, "1.000"))
    owner, heir = heir_of(exchange, "M")
    await standing_by(heir, last.order.sequence)
    answers: list[asyncio.Task[Answer]] = []

    async def keep_asking() -> None:
        for number in range(ORDERS):
            command = order(trader, Side.BUY, "1.000", client_order_id=f"n{number}")
            answers.append(asyncio.create_task(exchange.submit("M", command)))
            await asyncio.sleep(0.005)

    asking = asyncio.create_task(keep_asking())
    await eventually(lambda: len(answers) > ORDERS // 4)
    boundary = await move(exchange, "M", owner, heir)
    await asking
    placed = [answer for answer in await asyncio.gather(*answers) if isinstance(answer, OrderAnswer)]

    assert len(placed) == ORDERS
    sequences = [answer.order.order_id for answer in placed]
    assert sequences == sorted(set(sequences)), "done twice, or overtaken"
    assert sequences[0] <= boundary < sequences[-1], "the market moved in between"
    assert not any(answer.repeated for answer in placed)
    assert owner.status()["state"] == LEFT
    assert heir.status()["state"] == "serving"


async def test_what_waits_for_the_ledger_is_finished_before_the_market_leaves(exchange: Exchange) -> None:
    await exchange.open_market("M")
    ledger = SlowLedger(exchange.pool)
    exchange.start_market("M", draws=ledger)
    trader = await exchange.trader("trader")
    last = await exchange.sequence("M")
    owner, heir = heir_of(exchange, "M")
    await standing_by(heir, last)
    answer = asyncio.create_task(exchange.submit("M", order(trader, Side.BUY, "1.000")))
    await eventually(lambda: owner.status()["waiting"])
    moving = asyncio.create_task(move(exchange, "M", owner, heir))
    later = asyncio.create_task(exchange.submit("M", order(trader, Side.BUY, "1.001")))
    await eventually(lambda: owner.status()["state"] == LEAVING)
    ledger.hold.set()
    boundary = await moving

    first, second = await answer, await later
    assert isinstance(first, OrderAnswer)
    assert isinstance(second, OrderAnswer)
    assert first.order.status is OrderStatus.OPEN
    assert first.order.sequence <= boundary < second.order.sequence


async def test_an_heir_that_cannot_replay_the_journal_starts_from_a_snapshot_at_its_end(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    trader = await exchange.trader("trader")
    for _ in range(3):
        await exchange.placed("M", order(trader, Side.BUY, "1.000"))
    monkeypatch.setattr(recovery, "VERSIONS_REPLAYED", frozenset())  # the owner reads its journal no more
    owner, heir = heir_of(exchange, "M")
    await eventually(lambda: heir.status()["detail"])

    boundary = await move(exchange, "M", owner, heir, by_snapshot=True)
    answer = await exchange.placed("M", order(trader, Side.BUY, "1.000"))

    assert "engine version" not in heir.status()["detail"], "it serves"
    assert answer.order.sequence > boundary
    assert heir.status()["open_orders"] == 4


async def test_an_owner_whose_last_commit_fails_replays_and_leaves_then(exchange: Exchange) -> None:
    await exchange.open_market("M")
    journal = FaultyJournal(exchange.dsn)
    exchange.start_market("M", journal)
    trader = await exchange.trader("trader")
    last = await exchange.placed("M", order(trader, Side.BUY, "1.000"))
    owner, heir = heir_of(exchange, "M")
    await standing_by(heir, last.order.sequence)
    journal.hold, journal.fail_after = asyncio.Event(), 1
    answer = asyncio.create_task(exchange.submit("M", order(trader, Side.BUY, "1.000", client_order_id="doubt")))
    await eventually(lambda: owner._is_writing)
    moving = asyncio.create_task(move(exchange, "M", owner, heir))
    await asyncio.sleep(0)
    journal.hold.set()
    await moving

    assert isinstance(await answer, Failed)
    again = await exchange.placed("M", order(trader, Side.BUY, "1.000", client_order_id="doubt"))
    assert again.repeated, "it had become durable"
    assert heir.status()["open_orders"] == 2


async def test_an_heir_that_is_not_needed_stops_and_takes_nothing(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    trader = await exchange.trader("trader")
    last = await exchange.placed("M", order(trader, Side.BUY, "1.000"))
    owner, heir = heir_of(exchange, "M")
    await standing_by(heir, last.order.sequence)

    await heir.drain()

    assert heir.status()["state"] == "stopped"
    assert (await exchange.placed("M", order(trader, Side.BUY, "1.000"))).order.sequence > last.order.sequence
    assert owner.status()["state"] == "serving"
