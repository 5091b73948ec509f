"""A market of auctions with its follower on a real database: from orders to the certificate, and what the audit says.

Seen to fail for: a candle in the next epoch, a trade that knows the wrong epoch, a market that does not take up a
clearing after its death, a certificate that nobody compares.
"""

import asyncio
from collections.abc import Callable

import asyncpg
import msgspec
import pytest
from prometheus_client import REGISTRY

from actors.audit import Report, audit
from engine.auction.certificate import Published, problems
from engine.auction.epoch import Outcome
from engine.market import Mechanism
from engine.messages import Side, Tick
from engine.records import EpochRecord
from engine.settlement.states import Status
from engine.units import SECOND_US
from engine.views import EpochPhase, Liquidity
from persistence.audit import PostgresAudit
from persistence.history import PostgresHistory
from persistence.journal import PostgresJournal
from tests.support.exchange import CURRENCY, Exchange, order
from tests.support.patience import eventually

NOON, EPOCH_US = "NOON", 900 * SECOND_US
START_US = 1_800_000_000 * SECOND_US


class Clock:
    def __init__(self) -> None:
        self.now_us = START_US + SECOND_US

    def __call__(self) -> int:
        return self.now_us


class Stopped(BaseException):
    """The process died."""


def dies_at(point: str) -> Callable[[str], None]:
    def reached(where: str) -> None:
        if where == point:
            raise Stopped(point)

    return reached


async def traded(exchange: Exchange, crash: Callable[[str], None] | None = None) -> tuple[Clock, int, int]:
    """Two orders of 2 kWh that meet, and the end of their epoch."""
    clock = Clock()
    await exchange.open_market(NOON, mechanism=Mechanism.CALL_AUCTION, auction_fee_bps=10)
    exchange.start_market(NOON, clock=clock, crash=crash)
    exchange.follow(NOON)
    buyer, seller = await exchange.trader("buyer"), await exchange.trader("seller")
    await exchange.placed(NOON, order(buyer, Side.BUY, "4.000", "2.000"))
    await exchange.placed(NOON, order(seller, Side.SELL, "3.000", "2.000"))
    clock.now_us = START_US + EPOCH_US
    await exchange.submit(NOON, Tick())
    return clock, buyer, seller


async def cleared(exchange: Exchange, history: PostgresHistory) -> EpochRecord:
    market_id = exchange.specs[NOON].market_id
    found = await eventually(
        lambda: history.epoch(market_id, START_US),
        lambda epoch: epoch is not None and epoch.phase >= EpochPhase.CLEARED,
    )
    assert isinstance(found, EpochRecord)
    return found


async def report(exchange: Exchange) -> Report:
    journal = PostgresJournal(exchange.dsn)
    try:
        specs = await exchange.catalogue.markets()
        return await audit(specs, journal, exchange.snapshots, PostgresAudit(exchange.pool), CURRENCY)
    finally:
        await journal.close()


async def test_an_auction_reaches_every_table_and_the_audit_finds_it_true(exchange: Exchange) -> None:
    _, buyer, seller = await traded(exchange)
    history, market_id = PostgresHistory(exchange.pool), exchange.specs[NOON].market_id

    epoch = await cleared(exchange, history)

    assert (epoch.orders, epoch.price_micro, epoch.cleared_wh, epoch.trades) == (2, 3_500_000, 2_000, 1)
    assert (epoch.welfare_micro, epoch.welfare_max_micro) == (2_000_000, 2_000_000)
    await eventually(
        lambda: REGISTRY.get_sample_value("wattbook_market_welfare_ratio", {"market": NOON}), lambda ratio: ratio == 1.0
    )
    assert [(zone.sold_wh, zone.bought_wh) for zone in epoch.zones] == [(2_000, 2_000)]
    (fill,) = await history.fills(buyer)
    assert (fill.view.liquidity, fill.view.epoch_start_us, fill.view.fee_micro) == (Liquidity.AUCTION, START_US, 7_000)
    (trade,) = await history.trades(market_id)
    assert (trade.by_auction, trade.epoch_start_us) == (True, START_US)
    (candle,) = await history.candles(market_id, 900, 0, 2**62, 10)
    assert (candle.start_us, candle.volume_wh) == (START_US, 2_000)
    (position,) = await history.positions(seller)
    assert (position.epoch_start_us, position.sold_wh) == (START_US, 2_000)
    certificate = await history.certificate(market_id, START_US)
    assert certificate is not None
    assert list(problems(msgspec.json.decode(certificate, type=Published))) == []
    found = await report(exchange)
    assert (found.violations, found.auctions) == ([], 1)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE epochs SET certificate = certificate || ' ' WHERE certificate IS NOT NULL", "not that of the journal"),
        ("UPDATE epochs SET certificate = NULL", "not that of the journal"),
    ],
)
async def test_a_certificate_that_was_changed_is_found(exchange: Exchange, damage: str, says: str) -> None:
    await traded(exchange)
    await cleared(exchange, PostgresHistory(exchange.pool))
    await exchange.pool.execute(damage)

    assert says in " ".join((await report(exchange)).violations)


@pytest.mark.parametrize("point", ["closed", "cleared"])
async def test_a_market_that_dies_around_a_clearing_clears_once(exchange: Exchange, point: str) -> None:
    clock, _, _ = await traded(exchange, crash=dies_at(point))
    with pytest.raises(BaseExceptionGroup):
        await exchange.tasks.pop(NOON)

    exchange.start_market(NOON, clock=clock)

    epoch = await cleared(exchange, PostgresHistory(exchange.pool))
    assert epoch.trades == 1
    await exchange.followed(NOON)
    assert (await report(exchange)).violations == []


async def test_an_epoch_is_settling_with_its_first_trade_and_settled_with_all(
    exchange: Exchange, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await traded(exchange)
    history, market_id = PostgresHistory(exchange.pool), exchange.specs[NOON].market_id
    await cleared(exchange, history)

    async def phase() -> EpochPhase:
        epoch = await history.epoch(market_id, START_US)
        assert epoch is not None
        return epoch.phase

    seen = [await phase()]
    await pool.execute(
        "INSERT INTO settlements VALUES (1, $1, $2, $2, 1, 2000, 1, $3, 0, 0)", b"i" * 16, b"r" * 32, Status.BATCHED
    )
    await pool.execute("INSERT INTO settlement_trades VALUES (1, 0, $1, 1, $2)", market_id, b"l" * 32)
    seen.append(await phase())
    await pool.execute("UPDATE settlements SET status = $1", Status.FINALIZED)
    seen.append(await phase())

    assert seen == [EpochPhase.CLEARED, EpochPhase.SETTLING, EpochPhase.SETTLED]


async def test_an_order_of_the_next_epoch_is_answered_while_an_auction_is_worked_out(exchange: Exchange) -> None:
    clock = Clock()
    await exchange.open_market(NOON, mechanism=Mechanism.CALL_AUCTION)
    going = asyncio.Event()

    async def slowly(work: Callable[[], Outcome]) -> Outcome:
        await going.wait()
        return work()

    exchange.start_market(NOON, clock=clock, aside=slowly)
    exchange.follow(NOON)
    buyer, seller = await exchange.trader("buyer"), await exchange.trader("seller")
    await exchange.placed(NOON, order(buyer, Side.BUY, "4.000", "2.000"))
    await exchange.placed(NOON, order(seller, Side.SELL, "3.000", "1.000"))
    clock.now_us = START_US + EPOCH_US

    late = await exchange.placed(NOON, order(seller, Side.SELL, "2.900", "1.000"))
    going.set()
    epoch = await cleared(exchange, PostgresHistory(exchange.pool))

    assert late.order.filled_wh == 0
    assert (epoch.cleared_wh, epoch.orders) == (1_000, 2)
