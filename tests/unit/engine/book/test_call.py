"""Auctions of a market, by hand: who collects, what an epoch's end does, what each order gets and pays.

Seen to fail for: orders of the next epoch let into the auction, an expired order that trades, a fee of the taker
instead of the auction's, a reservation without it, a cancel that takes effect amid the clearing, ends that never come,
an auction with a line's whole capacity.
"""

import pytest
from msgspec.structs import replace

from engine.book import call, state
from engine.market import MarketSpec, Mechanism, Phase
from engine.messages import (
    AuctionTraded,
    CancelAll,
    ClearEpoch,
    EndReason,
    EpochCleared,
    EpochClosed,
    EpochOpened,
    Event,
    OrderKind,
    PhaseChanged,
    RejectCode,
    SetPhase,
    SetRisk,
    SetSpec,
    TimeInForce,
)
from tests.support.builders import (
    ALICE,
    BOB,
    CAROL,
    START_US,
    A,
    B,
    Desk,
    accepted,
    ends,
    funded_desk,
    linked,
    market,
    path,
    refusal,
    trades,
)

EPOCH_US = 900_000_000
SPEC = market(mechanism=Mechanism.CALL_AUCTION, price_micro_min=1_000, price_micro_max=20_000, auction_fee_bps=1_000)
BOTH = replace(SPEC, mechanism=Mechanism.CONTINUOUS_THEN_AUCTION, call_seconds=60)


def opened(spec: MarketSpec = SPEC) -> Desk:
    desk = funded_desk(spec)
    desk.tick()
    return desk


def closed(desk: Desk, seconds: float = 900) -> list[Event]:
    desk.wait(seconds)
    return desk.tick()


def clear(desk: Desk, start_us: int = START_US) -> list[Event]:
    return desk.do(ClearEpoch(start_us))


def result(events: list[Event]) -> EpochCleared:
    (one,) = (event for event in events if isinstance(event, EpochCleared))
    return one


def test_orders_collect_and_trade_at_one_price_when_the_epoch_is_over() -> None:
    desk = opened()

    assert not trades(desk.buy(ALICE, 9_000, 10))
    assert not trades(desk.sell(BOB, 3_000, 10))
    assert desk.book.phase is Phase.AUCTION_CALL
    assert closed(desk) == [EpochClosed(START_US, 2), EpochOpened(START_US + EPOCH_US)]
    events = clear(desk)

    (trade,) = trades(events)
    assert isinstance(trade, AuctionTraded)
    assert (trade.price_micro, trade.buyer_price_micro, trade.energy_wh) == (6_000, 6_000, 10)
    assert (trade.epoch_start_us, trade.buyer_id, trade.seller_id) == (START_US, ALICE, BOB)
    assert ends(events) == [(2 + 6, EndReason.FILLED, 0), (2 + 7, EndReason.FILLED, 0)]
    cleared = result(events)
    assert (cleared.volume_wh, cleared.trades, cleared.orders, cleared.value_micro) == (10, 1, 2, 60)
    assert (cleared.welfare_micro, cleared.welfare_max_micro) == (60, 60)
    assert desk.book.reference.price_micro == 6_000


def test_both_sides_pay_the_auctions_fee_and_the_rest_of_the_reservation_comes_free() -> None:
    desk = opened()
    before = desk.free(ALICE), desk.free(BOB)

    desk.buy(ALICE, 9_000, 10)
    reserved = desk.reserved(ALICE)
    desk.sell(BOB, 3_000, 10)
    closed(desk)
    (trade,) = trades(clear(desk))

    assert reserved == 90 + 9  # the limit and the fee at worst
    assert (trade.buyer_fee_micro, trade.seller_fee_micro) == (6, 6)
    assert (desk.free(ALICE), desk.free(BOB)) == (before[0] - 66, before[1] + 54)
    assert (desk.reserved(ALICE), desk.reserved(BOB, A)) == (0, 0)


@pytest.mark.parametrize(
    "more",
    [{"kind": OrderKind.MARKET}, {"time_in_force": TimeInForce.IOC}, {"time_in_force": TimeInForce.FOK},
     {"post_only": True}],
)  # fmt: skip
def test_in_a_call_no_order_may_ask_to_trade_at_once_or_never_to(more: dict[str, object]) -> None:
    desk = opened()

    assert refusal(desk.buy(ALICE, 5_000, 1, **more)) is RejectCode.NOT_IN_AUCTION
    assert desk.book.shortfall(desk.entries[-1].command, desk.time_us) is None


def test_what_does_not_trade_rolls_over_and_what_comes_later_is_the_next_epochs() -> None:
    desk = opened()
    desk.buy(ALICE, 9_000, 10)
    desk.sell(BOB, 3_000, 4)
    closed(desk)
    desk.sell(CAROL, 2_000, 6)  # too late for the first

    first = clear(desk)
    closed(desk)
    second = clear(desk, START_US + EPOCH_US)

    assert [(trade.seller_id, trade.energy_wh) for trade in trades(first)] == [(BOB, 4)]
    assert [(trade.seller_id, trade.energy_wh) for trade in trades(second)] == [(CAROL, 6)]
    assert result(second).start_us == START_US + EPOCH_US


def test_an_order_that_expires_with_the_epoch_does_not_trade() -> None:
    desk = opened()
    desk.buy(ALICE, 9_000, 10, time_in_force=TimeInForce.GTD, expires_us=START_US + EPOCH_US)
    desk.buy(BOB, 8_000, 10, time_in_force=TimeInForce.GTD, expires_us=START_US + EPOCH_US + 1)
    desk.sell(CAROL, 3_000, 10)

    assert ends(closed(desk)) == [(8, EndReason.EXPIRED, 10)]
    (trade,) = trades(clear(desk))
    assert trade.buyer_id == BOB


def test_an_epoch_without_orders_closes_with_no_price() -> None:
    desk = opened()

    events = closed(desk)

    assert events == [
        EpochClosed(START_US, 0),
        EpochCleared(START_US),
        EpochOpened(START_US + EPOCH_US),
    ]
    assert refusal(clear(desk)) is RejectCode.CONFLICT


def test_an_epoch_in_which_nothing_meets_has_no_price_but_a_certificate() -> None:
    desk = opened()
    desk.buy(ALICE, 3_000, 1)
    desk.sell(BOB, 9_000, 1)
    closed(desk)

    cleared = result(clear(desk))

    assert (cleared.volume_wh, cleared.zones, cleared.orders) == (0, (), 2)
    assert desk.book.certificate is not None
    assert desk.book.certificate.orders_hash == cleared.orders_hash


def test_clearing_twice_changes_nothing() -> None:
    desk = opened()
    desk.buy(ALICE, 9_000, 10)
    desk.sell(BOB, 3_000, 4)
    closed(desk)
    clear(desk)
    before = state.encode(desk.book)

    assert refusal(clear(desk)) is RejectCode.CONFLICT
    assert refusal(clear(desk, START_US + EPOCH_US)) is RejectCode.CONFLICT
    desk.book.sequence -= 2
    assert state.encode(desk.book) == before


def test_epochs_in_which_the_exchange_was_away_close_one_after_the_other_without_an_auction() -> None:
    desk = opened()
    desk.buy(ALICE, 9_000, 10)
    desk.sell(BOB, 3_000, 4)
    closed(desk, 3 * 900 + 5)
    assert desk.book.epoch_start_us == START_US + 3 * EPOCH_US

    events = clear(desk)

    assert [event.start_us for event in events if isinstance(event, EpochCleared)] == [
        START_US,
        START_US + EPOCH_US,
        START_US + 2 * EPOCH_US,
    ]
    assert [trade.epoch_start_us for trade in trades(events)] == [START_US]  # type: ignore[attr-defined]


def test_while_a_clearing_is_under_way_its_orders_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "TRADES_AT_ONCE", 1)
    desk = opened()
    desk.buy(ALICE, 9_000, 10)
    alice = desk.last_id
    desk.sell(BOB, 3_000, 4)
    desk.sell(CAROL, 3_000, 4)
    closed(desk)
    assert len(trades(clear(desk))) == 1

    assert refusal(desk.cancel(ALICE, alice)) is RejectCode.BEING_CLEARED
    assert refusal(desk.amend(ALICE, alice, quantity_wh=9)) is RejectCode.BEING_CLEARED
    assert not ends(desk.do(CancelAll(ALICE)))
    assert not ends(desk.do(SetRisk(CAROL, None, is_blocked=True)))
    assert accepted(desk.sell(BOB, 3_000, 1))  # of the next epoch
    assert ends(desk.cancel(BOB, desk.last_id))
    events = clear(desk)

    assert [trade.seller_id for trade in trades(events)] == [CAROL]
    assert ends(events) == [(10, EndReason.FILLED, 0), (alice, EndReason.CANCELLED_BY_OWNER, 2)]
    assert desk.book.call is None


def test_orders_without_a_part_in_the_trades_are_free_after_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "TRADES_AT_ONCE", 1)
    desk = opened()
    desk.buy(ALICE, 9_000, 8)
    desk.sell(BOB, 3_000, 4)
    desk.sell(BOB, 3_000, 4)
    desk.sell(CAROL, 9_000, 4)
    late = desk.last_id
    closed(desk)

    assert refusal(desk.cancel(CAROL, late)) is RejectCode.BEING_CLEARED
    clear(desk)
    assert ends(desk.cancel(CAROL, late)) == [(late, EndReason.CANCELLED_BY_OWNER, 4)]


def test_the_next_epoch_does_not_close_before_this_one_is_cleared() -> None:
    desk = opened()
    desk.buy(ALICE, 9_000, 10)
    closed(desk)

    assert closed(desk) == []  # its end has come, but not its turn
    assert result(clear(desk)).start_us == START_US
    assert desk.tick()[0] == EpochClosed(START_US + EPOCH_US, 1)


@pytest.mark.parametrize("phase", [Phase.HALTED, Phase.SCHEDULED])
def test_a_market_that_is_not_open_at_the_epochs_end_has_no_auction(phase: Phase) -> None:
    desk = opened()
    desk.buy(ALICE, 9_000, 10)
    desk.sell(BOB, 3_000, 10)
    desk.do(SetPhase(phase))

    assert closed(desk)[:2] == [EpochClosed(START_US, 0), EpochCleared(START_US)]
    assert desk.do(SetPhase(Phase.OPEN)) == [PhaseChanged(Phase.AUCTION_CALL)]
    assert closed(desk)[0] == EpochClosed(START_US + EPOCH_US, 2)


def test_a_market_that_closes_during_a_clearing_trades_what_was_found_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "TRADES_AT_ONCE", 1)
    desk = opened()
    desk.buy(ALICE, 9_000, 10)
    desk.sell(BOB, 3_000, 4)
    desk.sell(CAROL, 3_000, 4)
    closed(desk)
    clear(desk)

    assert not ends(desk.do(SetPhase(Phase.CLOSED)))
    events = clear(desk)

    assert len(trades(events)) == 1
    assert ends(events)[-1] == (8, EndReason.MARKET_CLOSED, 2)
    assert desk.book.phase is Phase.CLOSED
    assert not desk.book.orders


def test_continuous_then_auction_trades_at_once_until_the_gate_and_again_after_the_clearing() -> None:
    desk = opened(BOTH)
    desk.sell(BOB, 3_000, 2)
    assert len(trades(desk.buy(ALICE, 9_000, 1))) == 1
    desk.wait(840)

    assert desk.tick() == [PhaseChanged(Phase.AUCTION_CALL)]
    assert not trades(desk.buy(ALICE, 9_000, 3))
    assert not trades(desk.sell(CAROL, 5_000, 1))
    closed(desk, 60)
    assert not trades(desk.sell(CAROL, 5_000, 1))  # while it is cleared
    events = clear(desk)

    assert [trade.seller_id for trade in trades(events)] == [BOB, CAROL, CAROL]  # the last one at once, afterwards
    assert [type(trade).__name__ for trade in trades(events)] == ["AuctionTraded", "AuctionTraded", "Traded"]
    assert PhaseChanged(Phase.OPEN) in events
    assert desk.book.phase is Phase.OPEN
    assert not desk.book.orders


def test_an_auction_has_what_continuous_trades_have_left_of_a_line() -> None:
    spec = linked(5, **{name: getattr(BOTH, name) for name in ("mechanism", "call_seconds", "price_micro_min")})
    desk = opened(spec)
    desk.sell(BOB, 3_000, 20)
    assert len(trades(desk.buy(ALICE, 9_000, 2, zone=B))) == 1
    desk.wait(840)
    desk.buy(ALICE, 9_000, 9, zone=B)
    closed(desk, 60)

    events = clear(desk)

    auction = [trade.energy_wh for trade in trades(events) if isinstance(trade, AuctionTraded)]
    assert auction == [3]
    assert [trade.energy_wh for trade in trades(events)] == [3, 5]  # and then the next epoch's
    assert desk.book.lanes[A, B].left_wh == 0


def test_several_zones_clear_together_and_the_grid_gets_its_charges() -> None:
    paths = (path(A, A), path(B, B), path(A, B, 1_000))
    desk = opened(replace(SPEC, zones=(A, B), paths=paths, auction_fee_bps=0))
    desk.sell(BOB, 3_000, 10)
    desk.buy(ALICE, 9_000, 10, zone=B)
    closed(desk)

    events = clear(desk)

    (trade,) = trades(events)
    assert trade.buyer_price_micro - trade.seller_price_micro >= 1_000
    assert trade.grid_micro == desk.book.grid_micro[B] >= 10
    cleared = result(events)
    assert [(zone.zone, zone.bought_wh, zone.sold_wh) for zone in cleared.zones] == [(A, 0, 10), (B, 10, 0)]
    assert cleared.welfare_micro == 90 - 30 - 10


def test_who_would_trade_with_himself_is_left_out_and_the_welfare_says_what_it_cost() -> None:
    desk = opened()
    desk.buy(ALICE, 9_000, 4)
    desk.sell(ALICE, 2_000, 3)
    desk.sell(BOB, 3_000, 3)
    closed(desk)

    cleared = result(clear(desk))

    assert cleared.volume_wh == 1
    assert (cleared.welfare_micro, cleared.welfare_max_micro) == (9 - 3, 4 * 9 - 3 * 2 - 3)


def test_rules_of_an_auction_are_those_at_the_epochs_end() -> None:
    desk = opened()
    desk.buy(ALICE, 9_000, 10)
    desk.sell(BOB, 3_000, 10)
    closed(desk)
    desk.do(SetSpec(replace(SPEC, paths=(path(A, A, 2_000),))))

    (trade,) = trades(clear(desk))

    assert trade.grid_micro == 0


def test_mechanism_changes_when_no_order_is_open() -> None:
    desk = opened()

    desk.do(SetSpec(replace(SPEC, mechanism=Mechanism.CONTINUOUS)))
    desk.sell(BOB, 3_000, 1)

    assert desk.book.phase is Phase.OPEN
    assert len(trades(desk.buy(ALICE, 3_000, 1))) == 1
