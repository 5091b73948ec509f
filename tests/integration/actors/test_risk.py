"""A market's limits and blocks are those of the tables, whatever it missed.

Seen to fail for: a market that serves before it has looked, one that never looks again, one that undoes what it was
told of while it read.
"""

import asyncio

import asyncpg
import pytest

from engine.market import RiskLimits
from engine.messages import EndReason, RejectCode, SetRisk, Side
from engine.records import OwnLimits, ParticipantRisk
from engine.views import Applied, GetMarket, GetOrder, OrderAnswer, Refusal
from persistence.risk import PostgresRisk
from tests.support.exchange import CatalogueRules, Exchange, order
from tests.support.patience import eventually

RISK = RejectCode.RISK_LIMIT


class OnlyOnce(CatalogueRules):
    """Is asked while the market recovers, and has no answer afterwards."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        super().__init__(pool)
        of_market, asked = self.risks, 0

        async def once(market_id: int) -> dict[int, ParticipantRisk]:
            nonlocal asked
            asked += 1
            if asked > 1:
                await asyncio.Event().wait()
            return await of_market(market_id)

        self.risks = once


async def open_orders(exchange: Exchange) -> int:
    view = await exchange.links.ask(1, GetMarket())
    return view.open_orders  # type: ignore[union-attr]


async def test_who_was_blocked_while_the_market_was_down_does_not_trade_when_it_is_back(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer, risk = await exchange.trader("buyer"), PostgresRisk(exchange.pool)
    placed = await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    await exchange.kill("M")
    await risk.block(buyer, "", 1)

    market = exchange.start_market("M")
    vars(market)["_rules"] = OnlyOnce(exchange.pool)
    answer = await exchange.submit("M", order(buyer, Side.BUY, "3.500"))

    assert isinstance(answer, Refusal)
    assert answer.code is RISK
    known = await exchange.links.ask(1, GetOrder(buyer, placed.order.order_id))
    assert isinstance(known, OrderAnswer)
    assert known.order.end_reason == EndReason.RISK


async def test_what_was_not_told_is_found_by_comparing(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M", rules_every_seconds=0.05)
    buyer, risk = await exchange.trader("buyer"), PostgresRisk(exchange.pool)
    await exchange.placed("M", order(buyer, Side.BUY, "3.500"))

    await risk.put(buyer, {1: OwnLimits(RiskLimits(orders_max=1))})
    await eventually(
        lambda: exchange.submit("M", order(buyer, Side.BUY, "3.500")),
        lambda answer: isinstance(answer, Refusal) and answer.code is RISK,
    )
    await risk.block(buyer, "", 1)
    await eventually(lambda: open_orders(exchange), lambda count: count == 0)
    await risk.release(buyer)
    await risk.put(buyer, {})
    await eventually(
        lambda: exchange.submit("M", order(buyer, Side.BUY, "3.500")), lambda answer: isinstance(answer, OrderAnswer)
    )


async def test_the_answer_says_how_many_orders_ended(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer = await exchange.trader("buyer")
    for _ in range(3):
        await exchange.placed("M", order(buyer, Side.BUY, "3.500"))

    answer = await exchange.submit("M", SetRisk(buyer, None, is_blocked=True))

    assert isinstance(answer, Applied)
    assert answer.count == 3


async def test_what_the_market_is_told_while_it_reads_is_not_undone(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables are read before the block is in them, and compared after the market has heard of it."""
    await exchange.open_market("M")
    risk, reading, go_on = PostgresRisk(exchange.pool), asyncio.Event(), asyncio.Event()
    market = exchange.start_market("M", rules_every_seconds=0.05)
    buyer = await exchange.trader("buyer")
    await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    rules = vars(market)["_rules"]
    reads = 0

    async def slowly(market_id: int) -> object:
        nonlocal reads
        found = await risk.of_market(market_id)
        reads += 1
        reading.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(rules, "risks", slowly)
    await reading.wait()
    await risk.block(buyer, "", 1)
    await exchange.submit("M", SetRisk(buyer, None, is_blocked=True))
    sequence = await exchange.sequence("M")
    before = reads
    go_on.set()
    await eventually(lambda: reads >= before + 3)

    assert isinstance(await exchange.submit("M", order(buyer, Side.BUY, "3.500")), Refusal)
    assert await exchange.sequence("M") == sequence + 1  # that order: nothing was undone and done again
