"""The programme from the book to the ledger: presence by the follower, one reward per epoch, within the fees.

Seen to fail for: a rebate beyond the fees, one without the presence that was promised, presence that is
counted twice, taker trades that earn, a reward paid twice, a rebate settled before its fees.
"""

import asyncio
import json

from actors.clock import clock_us
from engine.messages import Side
from engine.records import MakerRecord, RewardRecord
from engine.settlement.netting import Rule
from engine.units import FOREVER_US, MICRO, SECOND_US
from persistence.makers import PostgresMakers
from persistence.reconciliation import PostgresReconciliation
from persistence.settlements import PostgresSettlements
from tests.support.exchange import CURRENCY, Exchange, order
from tests.support.patience import eventually

EPOCH_US = 900 * SECOND_US


class Clock:
    """Stands still but for what a test lets pass."""

    def __init__(self) -> None:
        self.now_us = (clock_us() // EPOCH_US + 1) * EPOCH_US + 10 * SECOND_US

    def __call__(self) -> int:
        return self.now_us


async def site(exchange: Exchange, clock: Clock, **promise: int) -> tuple[PostgresMakers, int, int]:
    """A market with 1 % of taker fees; its maker, obliged since the epoch before, and somebody who takes."""
    await exchange.open_market("M", taker_fee_bps=100)
    exchange.start_market("M", clock=clock)
    maker, taker = await exchange.trader("maker"), await exchange.trader("taker")
    makers = PostgresMakers(exchange.pool, CURRENCY)
    terms = {"spread_bps_max": 1_000, "size_wh_min": 1_000, "presence_bps_min": 5_000, "rebate_bps": 50, **promise}
    await makers.put(MakerRecord(1, maker, since_us=clock.now_us // EPOCH_US * EPOCH_US - 1, **terms))
    exchange.follow("M", obligations_every_seconds=0.0)
    await exchange.known("M")
    return makers, maker, taker


async def rewards(makers: PostgresMakers) -> list[RewardRecord]:
    return await makers.rewards(None, None, 0, FOREVER_US, (FOREVER_US, 9, FOREVER_US), 10)


async def epoch_passes(exchange: Exchange, clock: Clock, maker: int, taker: int) -> None:
    """The maker quotes from now on, 1 kWh is taken from him, and the next epoch begins."""
    await exchange.placed("M", order(maker, Side.BUY, "3.900", "5.000"))
    await exchange.placed("M", order(maker, Side.SELL, "4.000", "5.000"))
    clock.now_us += 100 * SECOND_US
    await exchange.placed("M", order(taker, Side.BUY, "4.000", "1.000"))
    clock.now_us = (clock.now_us // EPOCH_US + 1) * EPOCH_US
    await exchange.placed("M", order(taker, Side.BUY, "1.000", "1.000"))
    await exchange.followed("M")


async def test_a_maker_who_kept_his_word_is_paid_once_and_within_the_fees(exchange: Exchange) -> None:
    clock = Clock()
    makers, maker, taker = await site(exchange, clock, rebate_bps=50)
    start_us = clock.now_us // EPOCH_US * EPOCH_US
    await epoch_passes(exchange, clock, maker, taker)
    before = {one.kind: one.amount for one in await exchange.ledger.trial_balance() if one.asset == CURRENCY}

    done = await asyncio.gather(*(makers.reward_due(clock.now_us) for _ in range(2)))

    presence = (EPOCH_US - 10 * SECOND_US) * 10_000 // EPOCH_US
    assert sum(done) >= 1
    assert await rewards(makers) == [RewardRecord(1, start_us, maker, presence, 5_000, 4 * MICRO, 20_000)]
    after = {one.kind: one.amount for one in await exchange.ledger.trial_balance() if one.asset == CURRENCY}
    assert (before["fees"], after["fees"]) == (40_000, 20_000)
    (line,) = [one for one in await exchange.ledger.lines(maker) if one.kind == "rebate"]
    assert (line.account, line.amount, line.reference) == ("main", 20_000, f"rebate:1:{start_us}:{maker}")
    assert await makers.reward_due(clock.now_us) == 0


async def test_a_rebate_never_exceeds_the_fees_of_his_trades(exchange: Exchange) -> None:
    clock = Clock()
    makers, maker, taker = await site(exchange, clock, rebate_bps=9_000)
    await epoch_passes(exchange, clock, maker, taker)

    await makers.reward_due(clock.now_us)

    assert [one.rebate_micro for one in await rewards(makers)] == [40_000]


async def test_who_quoted_too_little_is_told_so_and_paid_nothing(exchange: Exchange) -> None:
    clock = Clock()
    makers, maker, taker = await site(exchange, clock, presence_bps_min=10_000)
    await epoch_passes(exchange, clock, maker, taker)

    await makers.reward_due(clock.now_us)

    (row,) = await rewards(makers)
    assert (row.presence_bps < 10_000, row.value_micro, row.rebate_micro) == (True, 4 * MICRO, 0)
    assert [one for one in await exchange.ledger.lines(maker) if one.kind == "rebate"] == []


async def test_what_he_takes_himself_earns_nothing(exchange: Exchange) -> None:
    clock = Clock()
    makers, maker, taker = await site(exchange, clock, presence_bps_min=1)
    await exchange.placed("M", order(taker, Side.SELL, "4.000", "1.000"))
    await exchange.placed("M", order(maker, Side.BUY, "4.000", "1.000"))
    await epoch_passes(exchange, clock, maker, taker)

    await makers.reward_due(clock.now_us)

    assert [one.value_micro for one in await rewards(makers)] == [4 * MICRO]


async def test_presence_is_counted_once_though_the_follower_dies(exchange: Exchange) -> None:
    clock = Clock()
    _, maker, taker = await site(exchange, clock)
    await exchange.placed("M", order(maker, Side.BUY, "3.900", "5.000"))
    await exchange.placed("M", order(maker, Side.SELL, "4.000", "5.000"))
    for _ in range(3):
        clock.now_us += 100 * SECOND_US
        await exchange.placed("M", order(taker, Side.BUY, "1.000", "1.000"))
        await exchange.followed("M")
        await exchange.kill("follower M")
        exchange.follow("M", obligations_every_seconds=0.0)

    query = "SELECT sum(quoted_us)::bigint FROM maker_presence"
    assert await eventually(lambda: exchange.pool.fetchval(query)) == 300 * SECOND_US


async def test_the_chain_hears_of_a_rebate_with_the_settlement_of_its_trades_and_the_books_agree_all_along(
    exchange: Exchange,
) -> None:
    clock = Clock()
    makers, maker, taker = await site(exchange, clock)
    await epoch_passes(exchange, clock, maker, taker)
    settlements = PostgresSettlements(exchange.pool)
    rule = Rule(every_us=EPOCH_US, trades_max=1, part_accounts=6)
    reconciliation = PostgresReconciliation(exchange.pool, CURRENCY)

    async def agrees() -> None:
        """The chain has nothing yet: what the fees have is what it is still to hear of."""
        books = await reconciliation.books()
        assert books.ledger["fees"] == books.pending["fees"]

    await agrees()
    await makers.reward_due(clock.now_us)
    await agrees()
    assert await settlements.settle_due(clock.now_us + EPOCH_US, rule) == 1
    assert await exchange.pool.fetchval("SELECT settlement FROM maker_rewards") is None  # its epoch may have more
    await agrees()
    await exchange.placed("M", order(taker, Side.BUY, "4.000", "1.000"))
    await exchange.followed("M")
    assert await settlements.settle_due(clock.now_us + EPOCH_US, rule) == 1

    await agrees()
    assert await exchange.pool.fetchval("SELECT settlement FROM maker_rewards") == 2
    second = await exchange.pool.fetchval("SELECT payload::text FROM outbox WHERE kind = 'settle' ORDER BY number DESC")
    deltas = {one["account"]: one["currency_micro"] for one in json.loads(second)["deltas"]}
    assert deltas == {"fees": 40_000 - 20_000, f"user:{maker}": 4 * MICRO + 20_000, f"user:{taker}": -4_040_000}
