"""Amending and cancelling: what keeps its place, what takes a new one, what ends, once."""

import pytest

from engine.market import Phase
from engine.messages import (
    CURRENCY,
    AmendOrder,
    CancelAll,
    EndReason,
    OrderAmended,
    OrderEnded,
    OrderKind,
    RejectCode,
    SetPhase,
    SetSpec,
    Side,
    TimeInForce,
)
from engine.units import ENERGY_WH_MAX
from tests.support.builders import (
    ALICE,
    BOB,
    A,
    B,
    Desk,
    ends,
    funded_desk,
    linked,
    market,
    order,
    refusal,
    trades,
)

PRICE = 4_000_000


# --- amending -------------------------------------------------------------------------------------------------------


def queue(desk: Desk) -> list[int]:
    """Who sells at the best price, in the order in which Bob would meet them."""
    copy = Desk(desk.book.spec)
    copy.book, copy.time_us = desk.book, desk.time_us
    return [trade.maker_order_id for trade in trades(copy.buy(BOB, PRICE, 1_000, time_in_force=TimeInForce.IOC))]


def two_sells() -> tuple[Desk, int, int]:
    desk = funded_desk()
    desk.sell(ALICE, PRICE, 10)
    desk.sell(ALICE, PRICE, 10)
    return desk, desk.last_id - 1, desk.last_id


def test_less_quantity_keeps_the_place() -> None:
    desk, first, second = two_sells()

    assert desk.amend(ALICE, first, quantity_wh=4) == [OrderAmended(first, PRICE, 4)]

    assert desk.reserved(ALICE, A) == 14
    assert queue(desk) == [first, second]


def test_nothing_new_keeps_the_place() -> None:
    desk, first, second = two_sells()

    assert desk.amend(ALICE, first) == [OrderAmended(first, PRICE, 10)]

    assert queue(desk) == [first, second]


def test_more_quantity_takes_a_new_place() -> None:
    desk, first, second = two_sells()

    desk.amend(ALICE, first, quantity_wh=11)

    assert desk.reserved(ALICE, A) == 21
    assert queue(desk) == [second, first]


def test_a_new_price_takes_a_new_place_even_if_it_comes_back() -> None:
    desk, first, second = two_sells()

    desk.amend(ALICE, first, price_micro=PRICE + 1_000)
    desk.amend(ALICE, first, price_micro=PRICE)

    assert queue(desk) == [second, first]


def test_an_amended_order_may_take() -> None:
    desk = funded_desk()
    desk.sell(BOB, PRICE, 1)
    desk.buy(ALICE, PRICE - 1_000, 2)
    order_id = desk.last_id

    events = desk.amend(ALICE, order_id, price_micro=PRICE)

    assert [trade.taker_order_id for trade in trades(events)] == [order_id]
    assert desk.book.orders[order_id].remaining_wh == 1
    assert desk.reserved(ALICE) == 4_000


def test_the_new_quantity_includes_what_is_filled() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 10)
    order_id = desk.last_id
    desk.sell(BOB, PRICE, 4)

    assert refusal(desk.amend(ALICE, order_id, quantity_wh=4)) == RejectCode.VALIDATION_FAILED
    desk.amend(ALICE, order_id, quantity_wh=5)
    assert desk.book.orders[order_id].remaining_wh == 1
    assert desk.reserved(ALICE) == 4_000


def test_an_amendment_is_all_or_nothing() -> None:
    desk = Desk(market(band_bps=2_000, reference_price_micro=PRICE))
    desk.fund(ALICE, CURRENCY, 8_000)
    desk.fund(ALICE, A, 2)
    desk.buy(ALICE, PRICE, 2)
    buy_id = desk.last_id
    desk.sell(ALICE, PRICE + 1_000, 2)
    sell_id = desk.last_id
    before = [(o.price_micro, o.quantity_wh, o.priority) for o in desk.book.orders.values()]

    for command, code in (
        (AmendOrder(ALICE, buy_id, PRICE + 1), RejectCode.PRICE_OFF_TICK),
        (AmendOrder(ALICE, buy_id, 0, -1), RejectCode.VALIDATION_FAILED),
        (AmendOrder(ALICE, buy_id, 0, ENERGY_WH_MAX + 1), RejectCode.QUANTITY_OFF_LOT),
        (AmendOrder(ALICE, buy_id, 99_000_000), RejectCode.PRICE_OUTSIDE_CORRIDOR),
        (AmendOrder(ALICE, buy_id, 8_000_000), RejectCode.PRICE_OUTSIDE_BAND),
        (AmendOrder(ALICE, buy_id, PRICE + 1_000), RejectCode.INSUFFICIENT_FUNDS),
        (AmendOrder(ALICE, buy_id, 0, 3), RejectCode.INSUFFICIENT_FUNDS),
        (AmendOrder(ALICE, sell_id, 0, 3), RejectCode.INSUFFICIENT_ENERGY),
        (AmendOrder(BOB, buy_id, 0, 1), RejectCode.NOT_FOUND),
    ):
        assert refusal(desk.do(command)) == code, command
        assert [(o.price_micro, o.quantity_wh, o.priority) for o in desk.book.orders.values()] == before
    assert desk.reserved(ALICE) == 8_000


def test_an_unchanged_price_is_not_measured_against_the_band_again() -> None:
    desk = funded_desk(market(band_bps=2_000, reference_price_micro=PRICE))
    desk.buy(ALICE, 3_300_000, 10)
    order_id = desk.last_id
    desk.sell(BOB, 4_800_000, 10)
    desk.buy(BOB, 4_700_000, 1)
    desk.do(order(Side.BUY, ALICE, 0, 10, kind=OrderKind.MARKET))  # the reference is 4.800 now

    assert refusal(desk.buy(ALICE, 3_300_000, 1)) == RejectCode.PRICE_OUTSIDE_BAND
    assert refusal(desk.amend(ALICE, order_id, quantity_wh=5)) is None


def test_a_post_only_order_is_not_amended_into_a_trade() -> None:
    desk = funded_desk()
    desk.sell(BOB, PRICE, 1)
    desk.buy(ALICE, PRICE - 1_000, 1, post_only=True)
    order_id = desk.last_id

    assert refusal(desk.amend(ALICE, order_id, PRICE)) == RejectCode.CONFLICT
    assert refusal(desk.amend(ALICE, order_id, PRICE - 2_000)) is None


# --- cancelling -----------------------------------------------------------------------------------------------------


def test_a_partly_filled_order_can_be_cancelled_once() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 10)
    order_id = desk.last_id
    desk.sell(BOB, PRICE, 4)

    assert desk.cancel(ALICE, order_id) == [OrderEnded(order_id, EndReason.CANCELLED_BY_OWNER, 6)]
    assert desk.reserved(ALICE) == 0
    assert refusal(desk.cancel(ALICE, order_id)) == RejectCode.ORDER_CLOSED
    assert refusal(desk.amend(ALICE, order_id, PRICE)) == RejectCode.ORDER_CLOSED


def test_another_participants_order_is_as_unknown_as_none() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)
    order_id = desk.last_id

    assert refusal(desk.cancel(BOB, order_id)) == refusal(desk.cancel(BOB, 999)) == RejectCode.NOT_FOUND
    desk.cancel(ALICE, order_id)
    assert refusal(desk.cancel(BOB, order_id)) == RejectCode.NOT_FOUND


def test_an_order_can_be_cancelled_while_the_market_is_halted() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)
    order_id = desk.last_id
    desk.do(SetPhase(Phase.HALTED))

    assert ends(desk.cancel(ALICE, order_id)) == [(order_id, EndReason.CANCELLED_BY_OWNER, 1)]


def test_cancel_all_ends_one_participants_orders_or_everybodys() -> None:
    desk = funded_desk()
    for who in (ALICE, BOB, ALICE):
        desk.buy(who, PRICE, 1)
    first, second, third = (desk.last_id + i for i in (-2, -1, 0))

    assert ends(desk.do(CancelAll(ALICE))) == [
        (first, EndReason.CANCELLED_BY_OWNER, 1),
        (third, EndReason.CANCELLED_BY_OWNER, 1),
    ]
    assert ends(desk.do(CancelAll(0, EndReason.CANCELLED_BY_ADMIN))) == [(second, EndReason.CANCELLED_BY_ADMIN, 1)]
    assert desk.do(CancelAll(ALICE)) == desk.do(CancelAll(77)) == []


@pytest.mark.parametrize("reason", [EndReason.HALTED, EndReason.RISK, EndReason.CANCELLED_BY_ADMIN])
def test_cancel_all_carries_its_reason(reason: EndReason) -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)

    assert ends(desk.do(CancelAll(ALICE, reason))) == [(desk.last_id - 1, reason, 1)]


def test_an_order_kept_apart_by_a_full_link_can_be_amended_and_cancelled() -> None:
    desk = funded_desk(linked(capacity_wh=1))
    desk.sell(ALICE, PRICE, 10, zone=A)
    desk.buy(BOB, PRICE, 3, zone=B)
    order_id = desk.last_id

    assert not trades(desk.amend(BOB, order_id, PRICE + 1_000))
    assert order_id in desk.book.blocked
    desk.cancel(BOB, order_id)
    assert not desk.book.blocked
    desk.wait(900)
    assert not trades(desk.tick())


def test_new_rules_of_the_corridor_do_not_touch_what_rests() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)

    desk.do(SetSpec(market(price_micro_max=3_000_000)))

    assert desk.sell(BOB, 3_000_000, 1)
    assert desk.book.trades == 1
