"""A batch is written once or not at all, and its sums are those of its parts.

Seen to fail for: no cursor check, reserved set in one step, candles that overwrite, transfers without ON CONFLICT.
"""

import asyncio

import asyncpg
import pytest

from engine.projection import CandleChange, LedgerEntry, LedgerTransfer, PositionChange
from engine.records import AccountBalance, CandleRecord, EpochRecord, PositionRecord, Want
from engine.views import OrderStatus
from persistence.history import PostgresHistory
from persistence.ledger import PostgresLedger
from persistence.projections import CursorMoved, PostgresProjections
from tests.support.patience import HUNG_SECONDS
from tests.support.rows import MARKET_ID, THB, batch, order_view, reserved, trade_row, trade_transfer

ALICE, BOB = 1001, 1002


async def funded(pool: asyncpg.Pool) -> PostgresLedger:
    ledger = PostgresLedger(pool)
    await ledger.deposit(ALICE, THB, 100_000_000, "a", 1)
    await ledger.deposit(BOB, "energy:Z1", 100_000, "b", 1)
    await ledger.draw(MARKET_ID, 1, [Want(ALICE, THB, 10_000_000), Want(BOB, "energy:Z1", 5_000)])
    return ledger


async def sums(ledger: PostgresLedger) -> set[int]:
    lines = await ledger.trial_balance()
    return {sum(line.amount for line in lines if line.asset == asset) for asset in {line.asset for line in lines}}


async def test_trade_moves_money_energy_fees_and_grid_charges(pool: asyncpg.Pool) -> None:
    ledger, projections = await funded(pool), PostgresProjections(pool)
    trade = trade_row(1, ALICE, BOB, buyer_zone="Z2")

    await projections.write(batch(0, 5, trades=[trade], transfers=[trade_transfer(trade)]))

    assert await ledger.balances(ALICE) == [
        AccountBalance(THB, 90_000_000, 10_000_000 - 3_533_530, 0),
        AccountBalance("energy:Z2", 0, 1_000, 0),
    ]
    assert await ledger.balances(BOB) == [
        AccountBalance(THB, 0, 3_000_000, 0),
        AccountBalance("energy:Z1", 95_000, 4_000, 0),
    ]
    kinds = {(line.asset, line.kind): line.amount for line in await ledger.trial_balance()}
    assert kinds[THB, "fees"] == 3_530
    assert kinds[THB, "grid"] == 530_000
    assert (kinds["energy:Z1", "grid"], kinds["energy:Z2", "grid"]) == (1_000, -1_000)
    assert await sums(ledger) == {0}


async def test_same_batch_again_changes_nothing(pool: asyncpg.Pool) -> None:
    ledger, projections = await funded(pool), PostgresProjections(pool)
    trade = trade_row(1, ALICE, BOB)
    whole = batch(0, 5, trades=[trade], transfers=[trade_transfer(trade)], accepted=[order_view(1)])
    await projections.write(whole)
    before = await ledger.balances(ALICE)

    for again in (whole, batch(3, 8), batch(6, 9)):
        with pytest.raises(CursorMoved):
            await projections.write(again)

    assert await ledger.balances(ALICE) == before
    assert await projections.cursor(MARKET_ID) == 5
    await projections.write(batch(5, 6))
    assert await PostgresHistory(pool).cursor([MARKET_ID, 9]) == {MARKET_ID: 6, 9: 0}


async def test_writers_at_the_same_time_write_a_batch_once(pool: asyncpg.Pool) -> None:
    ledger = await funded(pool)
    trade = trade_row(1, ALICE, BOB)
    whole = batch(0, 5, trades=[trade], transfers=[trade_transfer(trade)])

    done = await asyncio.gather(*(PostgresProjections(pool).write(whole) for _ in range(4)), return_exceptions=True)

    assert [each for each in done if each is None] == [None]
    assert all(isinstance(each, CursorMoved) for each in done if each is not None)
    assert (await ledger.balances(BOB))[1].in_markets == 4_000


async def test_broken_part_undoes_the_whole_batch(pool: asyncpg.Pool) -> None:
    ledger, projections = await funded(pool), PostgresProjections(pool)
    trade = trade_row(1, ALICE, BOB)
    unbalanced = LedgerTransfer("trade", "x", 1, (LedgerEntry("market", ALICE, THB, -1),))

    with pytest.raises(asyncpg.CheckViolationError):
        await projections.write(
            batch(0, 5, accepted=[order_view(1)], trades=[trade], transfers=[trade_transfer(trade), unbalanced])
        )

    assert await projections.cursor(MARKET_ID) == 0
    assert await PostgresHistory(pool).orders(ALICE) == []
    assert await PostgresHistory(pool).trades(MARKET_ID) == []
    assert (await ledger.balances(ALICE))[0].in_markets == 10_000_000


async def test_transfer_with_a_known_reference_is_not_applied_again(pool: asyncpg.Pool) -> None:
    """A cursor that was set back, as for making the projections again, moves no money."""
    ledger, projections = await funded(pool), PostgresProjections(pool)
    trade = trade_row(1, ALICE, BOB)
    await projections.write(batch(0, 5, transfers=[trade_transfer(trade)]))
    await pool.execute("UPDATE cursors SET sequence = 0")

    await projections.write(batch(0, 5, transfers=[trade_transfer(trade), trade_transfer(trade_row(2, ALICE, BOB))]))

    assert (await ledger.balances(BOB))[1].in_markets == 3_000


async def test_reserved_follows_even_when_the_balance_falls_with_it(pool: asyncpg.Pool) -> None:
    """All that was reserved is spent, and later new funds are reserved: neither order of steps may break a law."""
    ledger, projections = await funded(pool), PostgresProjections(pool)
    await projections.write(batch(0, 1, reserved=[reserved(ALICE, 10_000_000), reserved(BOB, 5_000, "energy:Z1")]))
    trade = trade_row(1, ALICE, BOB, energy_wh=5_000)
    spend_all = LedgerTransfer(
        "trade",
        "all",
        1,
        (LedgerEntry("market", ALICE, THB, -10_000_000), LedgerEntry("market", BOB, THB, 10_000_000)),
    )

    await projections.write(
        batch(1, 2, trades=[trade], transfers=[spend_all], reserved=[reserved(ALICE, 0), reserved(BOB, 10_000_000)])
    )

    assert await ledger.balances(ALICE) == [AccountBalance(THB, 90_000_000, 0, 0)]
    assert (await ledger.balances(BOB))[0] == AccountBalance(THB, 0, 10_000_000, 10_000_000)


async def test_defunding_gives_back_to_the_main_account(pool: asyncpg.Pool) -> None:
    ledger, projections = await funded(pool), PostgresProjections(pool)
    back = LedgerTransfer(
        "defund",
        "defund:1:1",
        9,
        (LedgerEntry("market", ALICE, THB, -10_000_000), LedgerEntry("main", ALICE, THB, 10_000_000)),
    )

    await projections.write(batch(0, 1, transfers=[back]))

    assert await ledger.balances(ALICE) == [AccountBalance(THB, 100_000_000, 0, 0)]
    assert await pool.fetchval("SELECT count(*) FROM accounts WHERE kind = 'main' AND market_id <> 0") == 0


async def test_order_keeps_its_latest_state(pool: asyncpg.Pool) -> None:
    projections, history = PostgresProjections(pool), PostgresHistory(pool)
    await projections.write(batch(0, 1, accepted=[order_view(1), order_view(2)]))
    ended = order_view(1, filled_wh=400, remaining_wh=0, status=OrderStatus.CANCELLED, end_reason=2, sequence=2)

    await projections.write(batch(1, 2, orders=[ended]))

    stored = await history.order(MARKET_ID, 1, ALICE)
    assert stored is not None
    assert stored.view == ended
    assert isinstance(stored.view.status, OrderStatus)


async def test_a_change_of_an_order_that_is_not_there_is_refused(pool: asyncpg.Pool) -> None:
    projections = PostgresProjections(pool)
    await projections.write(batch(0, 1, accepted=[order_view(1)]))

    with pytest.raises(RuntimeError, match="2 orders were to change, but: UPDATE 1"):
        await projections.write(batch(1, 2, orders=[order_view(1, sequence=2), order_view(7)]))

    assert await projections.cursor(MARKET_ID) == 1


async def test_candles_positions_and_epochs_merge(pool: asyncpg.Pool) -> None:
    projections, history = PostgresProjections(pool), PostgresHistory(pool)
    trades = [trade_row(n, ALICE, BOB, epoch_start_us=900 * (n // 3)) for n in range(1, 6)]
    await projections.write(
        batch(
            0,
            1,
            trades=trades[:2],
            candles=[CandleChange(60, 0, 30, 50, 20, 40, 7, 280, 2)],
            positions=[PositionChange(ALICE, 0, 10, 0, 100, 0, 1, 1, 7)],
        )
    )

    await projections.write(
        batch(
            1,
            2,
            trades=trades[2:],
            candles=[CandleChange(60, 0, 40, 45, 10, 15, 3, 60, 1), CandleChange(60, 60, 1, 1, 1, 1, 1, 1, 1)],
            positions=[PositionChange(ALICE, 0, 5, 2, 50, 20, 2, 2, 4), PositionChange(BOB, 0, 0, 15, 0, 150, 0, 1)],
        )
    )

    assert await history.candles(MARKET_ID, 60, 0, 60, 10) == [CandleRecord(0, 30, 50, 10, 15, 10, 340, 3)]
    assert await history.positions(ALICE) == [PositionRecord(MARKET_ID, 0, 15, 2, 150, 20, 3, 3, 11)]
    assert await history.epochs(MARKET_ID) == [
        EpochRecord(900, 3_000, 9_000_000, 3),
        EpochRecord(0, 2_000, 6_000_000, 2),
    ]
    assert await history.epoch(MARKET_ID, 0) == EpochRecord(0, 2_000, 6_000_000, 2)
    assert await history.epoch(MARKET_ID, 1) is None


async def test_draws_and_projections_of_the_same_accounts_do_not_block_each_other_for_ever(pool: asyncpg.Pool) -> None:
    ledger, projections = await funded(pool), PostgresProjections(pool)

    async def draw() -> None:
        for number in range(3, 43):
            want = Want(BOB, "energy:Z1", 1_000) if number % 2 else Want(ALICE, THB, 1)
            await ledger.draw(MARKET_ID, number, [want])

    async def project() -> None:
        for n in range(1, 41):
            trade = trade_row(n, ALICE, BOB, energy_wh=1)
            spent = [trade_transfer(trade)] if n < 3 else []
            await projections.write(batch(n - 1, n, trades=[trade], transfers=spent, reserved=[reserved(ALICE, n)]))

    await asyncio.wait_for(asyncio.gather(draw(), project()), HUNG_SECONDS)

    assert await sums(ledger) == {0}
