"""Funds, phases, specs and fees: what operators and the ledger do to a market."""

from typing import Any

import msgspec
import pytest

from engine.book.order_book import OrderBook
from engine.market import MarketSpec, Mechanism, Phase
from engine.messages import (
    CURRENCY,
    AmendOrder,
    CancelAllAt,
    CancelOrder,
    Defund,
    Defunded,
    EndReason,
    FeesSet,
    Fund,
    Funded,
    OrderKind,
    PhaseChanged,
    RejectCode,
    SetFees,
    SetPhase,
    SetSpec,
    Side,
    SpecChanged,
    Tick,
    TimeInForce,
)
from engine.units import FUND_MAX
from tests.support.builders import (
    ALICE,
    BOB,
    KWH,
    START_US,
    A,
    B,
    Desk,
    ends,
    funded_desk,
    linked,
    market,
    order,
    path,
    refusal,
    trades,
    two_zones,
)

PRICE = 4_000_000


# --- funds ----------------------------------------------------------------------------------------------------------


def test_a_fund_is_applied_once() -> None:
    desk = Desk()

    assert desk.do(Fund(1, ALICE, CURRENCY, 5))[-1] == Funded(1, ALICE, CURRENCY, 5)
    assert refusal(desk.do(Fund(1, ALICE, CURRENCY, 5))) == RejectCode.CONFLICT
    assert desk.free(ALICE) == 5


def test_a_gap_between_funds_is_a_bug_not_a_refusal() -> None:
    for number, amount in ((2, 5), (1, 0), (1, -5), (1, FUND_MAX + 1)):
        with pytest.raises(AssertionError):
            Desk().do(Fund(number, ALICE, CURRENCY, amount))


def test_defund_gives_back_what_is_free_asset_by_asset() -> None:
    desk = Desk()
    desk.fund(ALICE, A, 5)
    desk.fund(ALICE, CURRENCY, 10_000)
    desk.buy(ALICE, PRICE, 1)

    assert desk.do(Defund(ALICE)) == [Defunded(1, ALICE, CURRENCY, 6_000), Defunded(2, ALICE, A, 5)]
    assert (desk.free(ALICE), desk.reserved(ALICE)) == (0, 4_000)
    assert desk.do(Defund(ALICE)) == []


def test_an_idle_defund_waits_for_the_last_open_order() -> None:
    desk = Desk()
    desk.fund(ALICE, CURRENCY, 10_000)
    desk.buy(ALICE, PRICE, 1)

    assert desk.do(Defund(ALICE, idle_only=True)) == []
    desk.cancel(ALICE, desk.last_id - 1)
    assert desk.do(Defund(ALICE, idle_only=True)) == [Defunded(1, ALICE, CURRENCY, 10_000)]


def test_an_account_without_anything_is_forgotten() -> None:
    desk = Desk(market(closed_orders_kept=1))
    desk.fund(ALICE, CURRENCY, 4_000)
    desk.buy(ALICE, PRICE, 1, client_order_id="mine", time_in_force=TimeInForce.IOC)
    desk.do(Defund(ALICE))
    assert ALICE in desk.book.accounts  # its client_order_id is still known

    for _ in range(2):
        desk.fund(BOB, CURRENCY, 4_000)
        desk.buy(BOB, PRICE, 1, time_in_force=TimeInForce.IOC)

    assert ALICE not in desk.book.accounts
    assert desk.do(Defund(ALICE)) == []
    desk.do(Defund(BOB))
    assert not desk.book.accounts


# --- shortfall ------------------------------------------------------------------------------------------------------


def test_the_shortfall_of_a_buy_is_value_and_fee_less_what_is_free() -> None:
    desk = Desk(market(taker_fee_bps=25))
    command = order(Side.BUY, ALICE, PRICE, 1_500)

    assert desk.book.shortfall(command, START_US) == (CURRENCY, 6_015_000)
    desk.fund(ALICE, CURRENCY, 6_014_999)
    assert desk.book.shortfall(command, START_US) == (CURRENCY, 1)
    desk.fund(ALICE, CURRENCY, 1)
    assert desk.book.shortfall(command, START_US) is None


def test_the_shortfall_of_a_sell_is_energy_of_its_zone() -> None:
    desk = Desk(two_zones())
    desk.fund(ALICE, A, 10)

    assert desk.book.shortfall(order(Side.SELL, ALICE, PRICE, 12), START_US) == (A, 2)
    assert desk.book.shortfall(order(Side.SELL, ALICE, PRICE, 12, zone=B), START_US) == (B, 12)


def test_a_command_that_will_be_refused_anyway_needs_nothing() -> None:
    desk = Desk()
    desk.fund(ALICE, CURRENCY, 4_000)
    desk.buy(ALICE, PRICE, 1, client_order_id="mine")
    order_id = desk.last_id
    for command in (
        order(Side.BUY, ALICE, PRICE + 1, 1),
        order(Side.BUY, ALICE, PRICE, 1, zone="Z9"),
        order(Side.BUY, ALICE, PRICE, 1, expires_us=START_US),
        order(Side.BUY, ALICE, PRICE, 1, client_order_id="mine"),
        AmendOrder(ALICE, 999, 0, 5),
        AmendOrder(ALICE, order_id, PRICE + 1, 5),
        AmendOrder(BOB, order_id, 0, 5),  # nobody draws money for another's order
        CancelOrder(ALICE, order_id),
        Tick(),
    ):
        assert desk.book.shortfall(command, START_US) is None, command
    desk.do(SetPhase(Phase.HALTED))
    assert desk.book.shortfall(order(Side.BUY, ALICE, PRICE, 1), START_US) is None
    assert desk.book.shortfall(AmendOrder(ALICE, order_id, 0, 5), START_US) is None


def test_the_shortfall_of_an_amendment_is_what_it_adds() -> None:
    desk = Desk(market(taker_fee_bps=100))
    desk.fund(ALICE, CURRENCY, 50_000)
    desk.fund(ALICE, A, 3)
    desk.buy(ALICE, PRICE, 10)
    buy_id = desk.last_id
    desk.sell(ALICE, PRICE + 1_000, 3)
    sell_id = desk.last_id

    assert desk.book.shortfall(AmendOrder(ALICE, buy_id, 0, 20), START_US) == (CURRENCY, 80_800 - 50_000)
    assert desk.book.shortfall(AmendOrder(ALICE, sell_id, 0, 7), START_US) == (A, 4)
    assert desk.book.shortfall(AmendOrder(ALICE, sell_id, 0, 2), START_US) is None


def test_a_market_buys_shortfall_is_at_the_corridors_top() -> None:
    desk = Desk()

    command = order(Side.BUY, ALICE, 0, KWH, kind=OrderKind.MARKET)

    assert desk.book.shortfall(command, START_US) == (CURRENCY, 20_000_000)


def test_own_fees_count_in_the_shortfall() -> None:
    desk = Desk()
    desk.do(SetFees(ALICE, 0, 100))

    assert desk.book.shortfall(order(Side.BUY, ALICE, PRICE, KWH), START_US) == (CURRENCY, 4_040_000)


def test_a_name_that_the_next_entry_forgets_is_free_already() -> None:
    desk = Desk(market(closed_orders_kept=0))
    desk.fund(ALICE, CURRENCY, 4_000)
    desk.buy(ALICE, PRICE, 1, client_order_id="mine", time_in_force=TimeInForce.IOC)
    again = order(Side.BUY, ALICE, PRICE, 2, client_order_id="mine")

    assert desk.book.shortfall(again, START_US) == (CURRENCY, 4_000)
    assert refusal(desk.do(again)) == RejectCode.INSUFFICIENT_FUNDS


# --- phases ---------------------------------------------------------------------------------------------------------


def test_closing_ends_every_order_and_is_final() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)
    desk.sell(BOB, PRICE + 1_000, 2)
    first = desk.last_id - 1

    events = desk.do(SetPhase(Phase.CLOSED))

    assert events[0] == PhaseChanged(Phase.CLOSED)
    assert ends(events) == [(first, EndReason.MARKET_CLOSED, 1), (first + 1, EndReason.MARKET_CLOSED, 2)]
    assert (desk.reserved(ALICE), desk.reserved(BOB, A)) == (0, 0)
    assert refusal(desk.do(SetPhase(Phase.OPEN))) == RejectCode.CONFLICT
    assert desk.do(SetPhase(Phase.CLOSED)) == []


def test_halting_keeps_orders_and_the_same_phase_again_is_nothing() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)

    assert desk.do(SetPhase(Phase.HALTED)) == [PhaseChanged(Phase.HALTED)]
    assert desk.do(SetPhase(Phase.HALTED)) == []
    desk.do(SetPhase(Phase.OPEN))
    assert trades(desk.sell(BOB, PRICE, 1))


def test_a_market_can_begin_in_another_phase() -> None:
    desk = Desk(phase=Phase.SCHEDULED)

    assert refusal(desk.buy(ALICE, PRICE, 1)) == RejectCode.MARKET_NOT_OPEN


def test_a_spec_with_problems_never_reaches_a_book() -> None:
    with pytest.raises(AssertionError):
        OrderBook(market(symbol=""))


# --- specs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"market_id": 2}, "id, symbol"),
        ({"symbol": "OTHER"}, "id, symbol"),
        ({"epoch_seconds": 60}, "id, symbol"),
        ({"tick_micro": 2_000}, "tick, lot and mechanism"),
        ({"lot_wh": 2, "quantity_wh_min": 2}, "tick, lot and mechanism"),
        ({"mechanism": Mechanism.CALL_AUCTION}, "tick, lot and mechanism"),
        ({"zones": (B,), "paths": (path(B, B),)}, "gain zones, not lose"),
        ({"band_bps": -1}, "band_bps"),
    ],
)
def test_new_rules_that_cannot_be_are_refused_as_a_whole(changes: dict[str, Any], word: str) -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)
    before = desk.book.spec

    (event,) = desk.do(SetSpec(msgspec.structs.replace(before, **changes)))

    assert event.code is RejectCode.CONFLICT  # type: ignore[union-attr]
    assert word in event.detail  # type: ignore[union-attr]
    assert desk.book.spec is before


def test_tick_and_lot_can_change_while_nothing_rests() -> None:
    desk = funded_desk()
    new = market(tick_micro=2_000, lot_wh=2, quantity_wh_min=2)

    assert desk.do(SetSpec(new)) == [SpecChanged(new)]
    assert refusal(desk.buy(ALICE, 4_001_000, 2)) == RejectCode.PRICE_OFF_TICK


def test_a_market_can_gain_a_zone() -> None:
    desk = funded_desk()
    desk.sell(ALICE, PRICE, 1)

    desk.do(SetSpec(linked(-1)))

    assert trades(desk.buy(BOB, PRICE, 1, zone=B))


def test_orders_that_meet_under_new_rules_trade_at_once_by_age() -> None:
    desk = funded_desk(two_zones())
    desk.sell(ALICE, PRICE, 1, zone=A)
    desk.buy(BOB, PRICE + 1_000, 1, zone=B)  # far below the landed price

    (trade,) = trades(desk.do(SetSpec(linked(-1))))

    assert (trade.taker_side, trade.price_micro) == (Side.BUY, PRICE)


def test_a_raised_capacity_lets_waiting_orders_trade_on() -> None:
    desk = funded_desk(linked(1))
    desk.sell(ALICE, PRICE, 10, zone=A)
    desk.buy(BOB, PRICE, 10, zone=B)

    assert [trade.energy_wh for trade in trades(desk.do(SetSpec(linked(4))))] == [3]
    assert not trades(desk.do(SetSpec(linked(2))))


@pytest.mark.parametrize("between", [linked(-1), market(zones=(A, B), paths=(path(A, A), path(B, B)))])
def test_what_has_passed_counts_though_the_limit_or_the_path_was_gone(between: MarketSpec) -> None:
    desk = funded_desk(linked(5))
    desk.sell(ALICE, PRICE, 100, zone=A)
    desk.buy(BOB, PRICE, 3, zone=B)
    desk.do(SetSpec(between))
    desk.buy(BOB, PRICE, 1, zone=B)

    passed = sum(trade.energy_wh for trade in trades(desk.do(SetSpec(linked(5)))))
    passed += sum(trade.energy_wh for trade in trades(desk.buy(BOB, PRICE, 9, zone=B)))

    assert 3 + passed + (1 if between.paths[-1].zone_to == B and len(between.paths) == 3 else 0) == 5


def test_new_fees_hold_for_new_orders_only() -> None:
    desk = funded_desk()
    desk.sell(ALICE, PRICE, KWH)
    desk.do(SetSpec(market(maker_fee_bps=100, taker_fee_bps=100)))

    (trade,) = trades(desk.buy(BOB, PRICE, KWH))

    assert (trade.seller_fee_micro, trade.buyer_fee_micro) == (0, 40_000)


def test_a_lower_number_of_kept_orders_takes_effect_with_the_next_entry() -> None:
    desk = funded_desk()
    for _ in range(3):
        desk.buy(ALICE, PRICE, 1, time_in_force=TimeInForce.IOC)

    desk.do(SetSpec(market(closed_orders_kept=1)))
    assert len(desk.book.closed) == 3
    desk.tick()
    assert len(desk.book.closed) == 1


# --- fees of participants -------------------------------------------------------------------------------------------


def test_own_fees_replace_the_markets_until_they_are_removed() -> None:
    desk = funded_desk(market(maker_fee_bps=10, taker_fee_bps=20))

    assert desk.do(SetFees(BOB, 0, 50)) == [FeesSet(BOB, 0, 50)]
    desk.do(SetSpec(market(maker_fee_bps=30, taker_fee_bps=40)))  # own fees stay
    desk.sell(ALICE, PRICE, KWH)
    (trade,) = trades(desk.buy(BOB, PRICE, KWH))
    assert (trade.seller_fee_micro, trade.buyer_fee_micro) == (12_000, 20_000)

    assert desk.do(SetFees(BOB, 0, 0, remove=True)) == [FeesSet(BOB, 30, 40)]
    desk.sell(ALICE, PRICE, KWH)
    (trade,) = trades(desk.buy(BOB, PRICE, KWH))
    assert trade.buyer_fee_micro == 16_000


@pytest.mark.parametrize(("maker", "taker"), [(0, -1), (0, 10_000), (10_000, 0), (-10_000, 0)])
def test_fees_out_of_range_are_refused(maker: int, taker: int) -> None:
    assert refusal(Desk().do(SetFees(ALICE, maker, taker))) == RejectCode.VALIDATION_FAILED


def test_own_fees_keep_an_account_and_their_removal_lets_it_go() -> None:
    desk = Desk()

    desk.do(SetFees(ALICE, -5, 5))
    assert desk.book.accounts[ALICE].has_own_fees
    desk.do(SetFees(ALICE, 0, 0, remove=True))
    assert not desk.book.accounts


def test_a_pending_dead_man_switch_keeps_an_account() -> None:
    desk = Desk()
    desk.do(CancelAllAt(ALICE, START_US + 1))

    desk.do(Defund(ALICE))

    assert ALICE in desk.book.accounts
