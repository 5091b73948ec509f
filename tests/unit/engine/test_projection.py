"""Rows of a batch by hand; that they add up, however the journal is cut, is a property."""

from engine.messages import CURRENCY, Defund
from engine.projection import (
    CANDLE_SECONDS,
    CandleChange,
    LedgerEntry,
    PositionChange,
    Projection,
    ProjectionBatch,
    ReservedAmount,
)
from tests.support.builders import ALICE, BOB, KWH, START_US, A, B, Desk, funded_desk, two_zones

PRICE = 3_500_000


def gathered(desk: Desk, projection: Projection, since: int) -> ProjectionBatch:
    """What the desk's steps after `since` come to."""
    for entry, events in zip(desk.entries[since:], desk.steps[since:], strict=True):
        projection.add(entry, events)
    return projection.take()


def one_trade() -> ProjectionBatch:
    """Alice sells 1 kWh from A at 3.500 to Bob in B, who pays 4.605; 10 and 20 bps of fees."""
    desk = funded_desk(two_zones(maker_fee_bps=10, taker_fee_bps=20))
    projection, since = Projection(desk.book, "THB"), len(desk.entries)
    desk.sell(ALICE, PRICE, 2 * KWH, zone=A)
    desk.buy(BOB, 6_000_000, KWH, zone=B)
    return gathered(desk, projection, since)


def test_a_trade_moves_money_and_energy_through_the_grid() -> None:
    (transfer,) = one_trade().transfers

    assert (transfer.kind, transfer.reference, transfer.time_us) == ("trade", "trade:1:1", START_US)
    assert transfer.entries == (
        LedgerEntry("market", BOB, "THB", -4_614_210),
        LedgerEntry("market", ALICE, "THB", 3_496_500),
        LedgerEntry("grid:B", 0, "THB", 1_105_000),
        LedgerEntry("fees", 0, "THB", 12_710),
        LedgerEntry("market", ALICE, "energy:A", -KWH),
        LedgerEntry("market", BOB, "energy:B", KWH),
        LedgerEntry("grid:A", 0, "energy:A", KWH),
        LedgerEntry("grid:B", 0, "energy:B", -KWH),
    )


def test_a_trade_changes_both_positions_of_its_epoch() -> None:
    bob, alice = one_trade().positions

    assert bob == PositionChange(BOB, START_US, KWH, 0, 4_605_000, 0, 9_210, 1, 1_105_000)
    assert alice == PositionChange(ALICE, START_US, 0, KWH, 0, 3_500_000, 3_500, 1)


def test_a_trade_is_in_one_candle_of_each_length() -> None:
    candles = one_trade().candles

    assert [candle.seconds for candle in candles] == list(CANDLE_SECONDS)
    assert candles[0] == CandleChange(60, START_US, PRICE, PRICE, PRICE, PRICE, KWH, 3_500_000, 1)


def test_reserved_amounts_are_those_after_the_batch() -> None:
    assert set(map(repr, one_trade().reserved)) == {
        repr(ReservedAmount(ALICE, "energy:A", KWH)),
        repr(ReservedAmount(BOB, "THB", 0)),
    }


def test_giving_back_is_a_transfer_to_the_main_account() -> None:
    desk = Desk()
    desk.fund(ALICE, CURRENCY, 5)
    projection = Projection(desk.book, "THB")
    desk.do(Defund(ALICE))

    (transfer,) = gathered(desk, projection, 1).transfers

    assert (transfer.kind, transfer.reference) == ("defund", "defund:1:1")
    assert transfer.entries == (LedgerEntry("market", ALICE, "THB", -5), LedgerEntry("main", ALICE, "THB", 5))


def test_candles_of_a_batch_keep_open_high_low_and_close() -> None:
    desk = funded_desk()
    projection, since = Projection(desk.book, "THB"), len(desk.entries)
    for price in (4_000_000, 6_000_000, 3_000_000, 5_000_000):
        desk.sell(ALICE, price, KWH)
        desk.buy(BOB, price, KWH)
    desk.wait(60)
    desk.sell(ALICE, 9_000_000, KWH)
    desk.buy(BOB, 9_000_000, KWH)

    minutes = [candle for candle in gathered(desk, projection, since).candles if candle.seconds == 60]

    assert minutes == [
        CandleChange(60, START_US, 4_000_000, 6_000_000, 3_000_000, 5_000_000, 4 * KWH, 18_000_000, 4),
        CandleChange(60, START_US + 60_000_000, 9_000_000, 9_000_000, 9_000_000, 9_000_000, KWH, 9_000_000, 1),
    ]


def test_an_order_that_ended_in_the_batch_is_shown_as_it_ended_though_the_book_forgot_it() -> None:
    desk = funded_desk(two_zones(closed_orders_kept=0))
    projection, since = Projection(desk.book, "THB"), len(desk.entries)
    desk.buy(ALICE, PRICE, 1)
    order_id = desk.last_id
    for entry, events in zip(desk.entries[since:], desk.steps[since:], strict=True):
        projection.add(entry, events)
    events = desk.cancel(ALICE, order_id)
    projection.add(desk.entries[-1], events)
    desk.tick()
    projection.add(desk.entries[-1], [])

    (view,) = projection.take().accepted

    assert (view.order_id, view.remaining_wh) == (order_id, 1)
    assert order_id not in desk.book.closed


def test_a_batch_begins_where_the_last_one_ended() -> None:
    desk = funded_desk()
    projection = Projection(desk.book, "THB")
    start = desk.book.sequence
    desk.buy(ALICE, PRICE, 1)
    projection.add(desk.entries[-1], desk.steps[-1])
    assert projection.entries == 1

    first, second = projection.take(), projection.take()

    assert (first.sequence_from, first.sequence_to) == (start, start + 1)
    assert (second.sequence_from, second.sequence_to, second.orders) == (start + 1, start + 1, [])


def test_a_continuous_epoch_says_what_its_trades_were_worth_beside_the_best() -> None:
    desk = funded_desk()
    projection = Projection(desk.book, "THB")
    desk.wait(900)
    desk.tick()
    since = len(desk.entries) - 1
    desk.sell(ALICE, 3_000_000, KWH)
    desk.buy(BOB, 3_500_000, KWH)
    desk.buy(BOB, 5_000_000, KWH)
    desk.wait(900)
    desk.tick()

    epochs = {change.start_us: change for change in gathered(desk, projection, since).epochs}

    cleared = epochs[START_US + 900_000_000].cleared
    assert cleared is not None
    assert (cleared.orders, cleared.welfare_micro, cleared.welfare_max_micro) == (0, 500_000, 2_000_000)
    assert epochs[START_US].cleared is None  # it was not watched from its beginning
    assert epochs[START_US + 1_800_000_000].cleared is None  # it goes on
