"""Placing: refusals in their order, client order ids, what rests, what ends at once."""

import msgspec
import pytest

from engine.market import Phase
from engine.messages import (
    CURRENCY,
    EndReason,
    OrderAccepted,
    OrderKind,
    OrderRepeated,
    PlaceOrder,
    Refused,
    RejectCode,
    SetPhase,
    Side,
    TimeInForce,
)
from engine.units import ENERGY_WH_MAX
from tests.support.builders import (
    ALICE,
    BOB,
    COIN,
    KWH,
    A,
    Desk,
    ends,
    funded_desk,
    market,
    order,
    refusal,
    trades,
)

PRICE = 4_000_000
WEEK_US = 7 * 86_400 * 1_000_000


# --- refusals -------------------------------------------------------------------------------------------------------


def test_each_broken_rule_of_placing_has_its_code() -> None:
    desk = funded_desk(market(lot_wh=10, quantity_wh_min=20, band_bps=2_000, reference_price_micro=PRICE))
    now = desk.time_us
    for changes, code in (
        ({"zone": "Z9"}, RejectCode.VALIDATION_FAILED),
        ({"expires_us": now}, RejectCode.VALIDATION_FAILED),
        ({"expires_us": -1}, RejectCode.VALIDATION_FAILED),
        ({"expires_us": now + WEEK_US + 1}, RejectCode.VALIDATION_FAILED),
        ({"price_micro": PRICE + 1}, RejectCode.PRICE_OFF_TICK),
        ({"quantity_wh": 25}, RejectCode.QUANTITY_OFF_LOT),
        ({"quantity_wh": 10}, RejectCode.QUANTITY_OFF_LOT),
        ({"quantity_wh": 0}, RejectCode.QUANTITY_OFF_LOT),
        ({"quantity_wh": -20}, RejectCode.QUANTITY_OFF_LOT),
        ({"quantity_wh": ENERGY_WH_MAX + 10}, RejectCode.QUANTITY_OFF_LOT),
        ({"price_micro": 499_000}, RejectCode.PRICE_OUTSIDE_CORRIDOR),
        ({"price_micro": 20_001_000}, RejectCode.PRICE_OUTSIDE_CORRIDOR),
        ({"price_micro": 0}, RejectCode.PRICE_OUTSIDE_CORRIDOR),
        ({"price_micro": -1_000}, RejectCode.PRICE_OUTSIDE_CORRIDOR),
        ({"price_micro": 3_199_000}, RejectCode.PRICE_OUTSIDE_BAND),
        ({"price_micro": 4_801_000}, RejectCode.PRICE_OUTSIDE_BAND),
    ):
        command = msgspec.structs.replace(order(Side.BUY, ALICE, PRICE, 20), **changes)
        assert refusal(desk.do(command)) == code, changes
    for price in (3_200_000, 4_800_000):
        assert refusal(desk.buy(ALICE, price, 20)) is None
    assert refusal(desk.buy(ALICE, PRICE, 20, expires_us=now + WEEK_US)) is None


def test_refusals_come_in_the_order_of_their_numbers() -> None:
    """An order that breaks every rule; each step mends the first one."""
    desk = Desk(market(lot_wh=10, quantity_wh_min=10, band_bps=2_000, reference_price_micro=PRICE))
    desk.fund(BOB, CURRENCY, 40_000)
    desk.buy(BOB, PRICE, 10, client_order_id="mine")
    desk.do(SetPhase(Phase.HALTED))
    worst = PlaceOrder(BOB, Side.BUY, 99_000_001, 5, "Z9", client_order_id="mine")

    found = []
    for mend in (
        {},
        {"client_order_id": "other"},
        SetPhase(Phase.OPEN),
        {"zone": A},
        {"price_micro": 99_000_000},
        {"quantity_wh": 10},
        {"price_micro": 8_000_000},
        {"price_micro": PRICE},
    ):
        if isinstance(mend, SetPhase):
            desk.do(mend)
        else:
            worst = msgspec.structs.replace(worst, **mend)
        found.append(refusal(desk.do(worst)))

    assert found == [
        RejectCode.CLIENT_ORDER_ID_REUSED,
        RejectCode.MARKET_NOT_OPEN,
        RejectCode.VALIDATION_FAILED,
        RejectCode.PRICE_OFF_TICK,
        RejectCode.QUANTITY_OFF_LOT,
        RejectCode.PRICE_OUTSIDE_CORRIDOR,
        RejectCode.PRICE_OUTSIDE_BAND,
        RejectCode.INSUFFICIENT_FUNDS,
    ]


@pytest.mark.parametrize("phase", [Phase.SCHEDULED, Phase.HALTED, Phase.CLOSED])
def test_only_an_open_market_takes_orders_and_amendments(phase: Phase) -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)
    order_id = desk.last_id
    desk.do(SetPhase(phase))

    assert refusal(desk.buy(ALICE, PRICE, 1)) == RejectCode.MARKET_NOT_OPEN
    assert refusal(desk.amend(ALICE, order_id, PRICE + 1_000)) == RejectCode.MARKET_NOT_OPEN
    assert refusal(desk.amend(ALICE, 999, PRICE)) == RejectCode.MARKET_NOT_OPEN  # before NOT_FOUND


def test_a_refusal_says_what_would_be_right() -> None:
    desk = Desk(market(quantity_wh_min=5))

    (low,) = desk.buy(ALICE, PRICE, 4)[1:]
    (poor,) = desk.buy(ALICE, PRICE, 5)
    (dark,) = desk.sell(ALICE, PRICE, 5)

    assert [event.detail for event in (low, poor, dark) if isinstance(event, Refused)] == [
        "quantity must be a multiple of 0.001, from 0.005 to 1000000.000",
        "0.020 are missing",
        "0.005 kWh are missing in A",
    ]


def test_a_refused_order_leaves_no_account_behind() -> None:
    desk = Desk()

    desk.buy(ALICE, PRICE, 1)
    desk.sell(ALICE, PRICE, 1)

    assert not desk.book.accounts


def test_two_orders_within_the_balance_but_not_together() -> None:
    desk = Desk()
    desk.fund(ALICE, CURRENCY, 10 * COIN)
    desk.fund(ALICE, A, KWH)

    assert refusal(desk.buy(ALICE, PRICE, 2 * KWH)) is None
    assert refusal(desk.buy(ALICE, PRICE, 1 * KWH)) == RejectCode.INSUFFICIENT_FUNDS
    assert refusal(desk.sell(ALICE, 5_000_000, KWH)) is None
    assert refusal(desk.sell(ALICE, 5_000_000, 1)) == RejectCode.INSUFFICIENT_ENERGY


# --- client order ids -----------------------------------------------------------------------------------------------


def test_a_repeat_gives_the_first_order_and_changes_nothing() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1, client_order_id="mine")
    first = desk.last_id

    assert desk.buy(ALICE, PRICE, 1, client_order_id="mine") == [OrderRepeated(first)]
    desk.do(SetPhase(Phase.HALTED))
    assert desk.buy(ALICE, PRICE, 1, client_order_id="mine") == [OrderRepeated(first)]
    assert desk.reserved(ALICE) == 4_000


def test_a_used_id_with_other_contents_is_refused() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1, client_order_id="mine")

    assert refusal(desk.buy(ALICE, PRICE, 2, client_order_id="mine")) == RejectCode.CLIENT_ORDER_ID_REUSED
    assert refusal(desk.buy(BOB, PRICE, 2, client_order_id="mine")) is None  # his own namespace


def test_an_ended_orders_id_stays_known_as_long_as_the_order() -> None:
    desk = funded_desk(market(closed_orders_kept=2))
    desk.buy(ALICE, PRICE, 1, client_order_id="mine", time_in_force=TimeInForce.IOC)
    first = desk.last_id
    again = {"client_order_id": "mine", "time_in_force": TimeInForce.IOC}

    assert desk.buy(ALICE, PRICE, 1, **again) == [OrderRepeated(first)]
    desk.buy(ALICE, PRICE, 1, time_in_force=TimeInForce.IOC)
    assert desk.buy(ALICE, PRICE, 1, **again) == [OrderRepeated(first)]
    desk.buy(ALICE, PRICE, 1, time_in_force=TimeInForce.IOC)
    assert OrderAccepted(desk.book.sequence + 1) in desk.buy(ALICE, PRICE, 1, **again)
    assert first not in desk.book.closed


def test_an_open_orders_id_is_never_forgotten() -> None:
    desk = funded_desk(market(closed_orders_kept=0))
    desk.buy(ALICE, PRICE, 1, client_order_id="mine")
    first = desk.last_id
    for _ in range(3):
        desk.buy(ALICE, PRICE, 1, time_in_force=TimeInForce.IOC)

    assert desk.buy(ALICE, PRICE, 1, client_order_id="mine") == [OrderRepeated(first)]


# --- what rests and what ends at once -------------------------------------------------------------------------------


def test_a_limit_order_rests_and_reserves_what_it_can_cost() -> None:
    desk = funded_desk(market(maker_fee_bps=10, taker_fee_bps=25))
    before = desk.free(ALICE)

    events = desk.buy(ALICE, PRICE, 1_500)

    assert events == [OrderAccepted(desk.last_id)]
    assert desk.reserved(ALICE) == 6_015_000  # 1.5 kWh at 4.000 and 25 bps
    assert before - desk.free(ALICE) == 6_015_000


def test_price_improvement_comes_back_at_once() -> None:
    desk = funded_desk(market(taker_fee_bps=100))
    desk.sell(BOB, 3_000_000, KWH)
    before = desk.free(ALICE)

    desk.buy(ALICE, 5_000_000, KWH)

    assert before - desk.free(ALICE) == 3_030_000
    assert desk.reserved(ALICE) == 0


def test_an_ioc_remainder_does_not_rest() -> None:
    desk = funded_desk()
    desk.sell(BOB, PRICE, 1)

    events = desk.buy(ALICE, PRICE, 3, time_in_force=TimeInForce.IOC)

    assert ends(events)[-1] == (desk.last_id, EndReason.IOC_REMAINDER, 2)
    assert desk.reserved(ALICE) == 0


@pytest.mark.parametrize("side", Side)
def test_a_market_order_takes_what_there_is_and_never_rests(side: Side) -> None:
    desk = funded_desk(market(band_bps=2_000, reference_price_micro=PRICE))
    (desk.sell if side is Side.BUY else desk.buy)(BOB, PRICE, 1)

    events = desk.do(order(side, ALICE, 0, 3, kind=OrderKind.MARKET))

    assert [trade.price_micro for trade in trades(events)] == [PRICE]
    assert ends(events)[-1] == (desk.last_id, EndReason.IOC_REMAINDER, 2)
    assert (desk.reserved(ALICE), desk.reserved(ALICE, A)) == (0, 0)


def test_a_market_buy_reserves_at_the_corridors_top_or_at_its_own_maximum() -> None:
    desk = Desk()
    desk.fund(ALICE, CURRENCY, 19 * COIN)

    assert refusal(desk.do(order(Side.BUY, ALICE, 0, KWH, kind=OrderKind.MARKET))) == RejectCode.INSUFFICIENT_FUNDS
    assert refusal(desk.do(order(Side.BUY, ALICE, 19_000_000, KWH, kind=OrderKind.MARKET))) is None


def test_a_market_order_does_not_trade_beyond_its_own_worst_price() -> None:
    desk = funded_desk()
    desk.sell(BOB, PRICE, 1)
    desk.buy(BOB, 3_000_000, 1)

    assert not trades(desk.do(order(Side.BUY, ALICE, PRICE - 1_000, 1, kind=OrderKind.MARKET)))
    assert not trades(desk.do(order(Side.SELL, ALICE, 3_001_000, 1, kind=OrderKind.MARKET)))


def test_a_post_only_order_ends_instead_of_taking() -> None:
    desk = funded_desk()
    desk.sell(BOB, PRICE, 1)

    assert ends(desk.buy(ALICE, PRICE, 1, post_only=True)) == [(desk.last_id, EndReason.POST_ONLY_WOULD_TRADE, 1)]
    assert not ends(desk.buy(ALICE, PRICE - 1_000, 1, post_only=True))


def test_a_post_only_fill_or_kill_order_can_only_end() -> None:
    desk = funded_desk()
    fok = TimeInForce.FOK

    assert ends(desk.buy(ALICE, PRICE, 1, post_only=True, time_in_force=fok))[0][1] == EndReason.FOK_UNFILLABLE


def test_a_filled_order_ends_after_its_trades_maker_first() -> None:
    desk = funded_desk()
    desk.sell(BOB, PRICE, 1)
    maker_id = desk.last_id

    events = desk.buy(ALICE, PRICE, 1)

    assert [type(event).__name__ for event in events] == ["OrderAccepted", "Traded", "OrderEnded", "OrderEnded"]
    assert ends(events) == [(maker_id, EndReason.FILLED, 0), (desk.last_id, EndReason.FILLED, 0)]
