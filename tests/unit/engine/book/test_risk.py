"""Each limit with its own words, at its border; who is blocked; what limits never forbid.

Seen to fail for: a limit of the whole order's value in an amend that lowers it, quantity limits for amends that lower.
"""

import pytest

from engine.book.state import decode, encode
from engine.market import NO_LIMITS, RiskLimits
from engine.messages import (
    EndReason,
    Event,
    OrderAccepted,
    OrderKind,
    Refused,
    RejectCode,
    RiskSet,
    SetRisk,
    TimeInForce,
)
from tests.support.builders import ALICE, BOB, CAROL, Desk, accepted, ends, funded_desk, market, refusal, trades

PRICE = 4_000_000
KWH = 1_000


def limited(**limits: int) -> Desk:
    """ALICE has these limits, BOB none."""
    desk = funded_desk()
    desk.do(SetRisk(ALICE, RiskLimits(**limits)))
    return desk


def why(events: list[Event]) -> str:
    (event,) = events
    assert isinstance(event, Refused)
    assert event.code is RejectCode.RISK_LIMIT
    return event.detail


def test_an_order_may_have_so_much_and_no_more() -> None:
    desk = limited(quantity_wh_max=2 * KWH)

    assert accepted(desk.buy(ALICE, PRICE, 2 * KWH))
    order = desk.last_id
    assert why(desk.buy(ALICE, PRICE, 2 * KWH + 1)) == "an order has at most 2.000 kWh"
    assert why(desk.amend(ALICE, order, quantity_wh=2 * KWH + 1)) == "an order has at most 2.000 kWh"
    assert accepted(desk.buy(BOB, PRICE, 3 * KWH))


def test_so_many_orders_may_be_open_and_those_that_never_rest_do_not_count() -> None:
    desk = limited(orders_max=2)
    assert accepted(desk.buy(ALICE, PRICE, 1))
    assert accepted(desk.buy(ALICE, PRICE, 1))
    second = desk.last_id

    assert why(desk.buy(ALICE, PRICE, 1)) == "at most 2 orders may be open"
    for never_rests in ({"time_in_force": TimeInForce.IOC}, {"kind": OrderKind.MARKET}):
        assert accepted(desk.buy(ALICE, PRICE, 1, **never_rests))
    desk.cancel(ALICE, second)
    assert accepted(desk.buy(ALICE, PRICE, 1))


def test_open_orders_may_be_worth_so_much() -> None:
    desk = limited(value_micro_max=12_000_000)  # 3 kWh at 4.000
    desk.buy(ALICE, PRICE, 2 * KWH)
    first = desk.last_id

    assert why(desk.buy(ALICE, PRICE, KWH + 1)) == "open orders are worth at most 12.000"
    assert accepted(desk.sell(ALICE, PRICE + 1_000_000, KWH // 2))
    assert why(desk.amend(ALICE, first, price_micro=PRICE + 1_000_000)) == "open orders are worth at most 12.000"
    assert accepted(desk.buy(ALICE, PRICE, KWH // 4))
    desk.cancel(ALICE, first)
    assert accepted(desk.buy(ALICE, PRICE, KWH))


def test_a_position_counts_what_traded_in_the_epoch_and_what_may_still_trade() -> None:
    desk = limited(position_wh_max=10 * KWH)
    desk.sell(BOB, PRICE, 6 * KWH)
    assert trades(desk.buy(ALICE, PRICE, 6 * KWH))  # bought 6
    assert accepted(desk.buy(ALICE, PRICE - 1_000, 3 * KWH))  # and may buy 3 more

    words = "at most 10.000 kWh may be {} in an epoch, open orders included"
    assert why(desk.buy(ALICE, PRICE - 2_000, KWH + 1)) == words.format("bought")
    assert accepted(desk.sell(ALICE, PRICE + 1_000, 16 * KWH))  # 16 sold would be a position of 10
    assert why(desk.sell(ALICE, PRICE + 2_000, 1)) == words.format("sold")
    desk.wait(desk.book.spec.epoch_seconds)
    assert accepted(desk.buy(ALICE, PRICE - 3_000, 7 * KWH))  # a new epoch: 3 wait, 7 more


def test_a_limit_that_came_later_keeps_nobody_from_doing_less() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 10 * KWH)
    order = desk.last_id
    desk.do(SetRisk(ALICE, RiskLimits(KWH, 1, 1_000_000, KWH)))

    assert refusal(desk.amend(ALICE, order, quantity_wh=9 * KWH)) is None
    assert refusal(desk.amend(ALICE, order, price_micro=PRICE - 1_000)) is None
    assert why(desk.amend(ALICE, order, price_micro=PRICE)) == "open orders are worth at most 1.000"
    assert ends(desk.cancel(ALICE, order))


def test_the_markets_limits_hold_for_those_who_have_none_of_their_own() -> None:
    desk = funded_desk(market(limits=RiskLimits(orders_max=1)))
    desk.do(SetRisk(BOB, NO_LIMITS))

    assert accepted(desk.buy(ALICE, PRICE, 1))
    assert why(desk.buy(ALICE, PRICE, 1)) == "at most 1 orders may be open"
    assert accepted(desk.buy(BOB, PRICE, 1))
    assert accepted(desk.buy(BOB, PRICE, 1))
    desk.do(SetRisk(BOB, None))
    assert why(desk.buy(BOB, PRICE, 1)) == "at most 1 orders may be open"


def test_who_is_blocked_loses_his_orders_and_places_none_until_he_is_let_in_again() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)
    order = desk.last_id

    told = desk.do(SetRisk(ALICE, None, is_blocked=True))
    assert told[0] == RiskSet(ALICE, None, True)
    assert ends(told) == [(order, EndReason.RISK, 1)]
    assert why(desk.buy(ALICE, PRICE, 1)) == "trading is blocked for this participant"
    assert accepted(desk.buy(BOB, PRICE, 1))
    assert desk.do(SetRisk(ALICE, None)) == [RiskSet(ALICE, None, False)]
    assert isinstance(desk.buy(ALICE, PRICE, 1)[0], OrderAccepted)


def test_limits_below_zero_are_refused() -> None:
    assert refusal(Desk().do(SetRisk(ALICE, RiskLimits(orders_max=-1)))) == RejectCode.VALIDATION_FAILED
    assert market(limits=RiskLimits(quantity_wh_max=-1)).problems() == ["limits: quantity_wh_max: must be 0 or more"]


@pytest.mark.parametrize("set_", [SetRisk(CAROL, NO_LIMITS), SetRisk(CAROL, None, is_blocked=True)])
def test_limits_and_a_block_keep_an_account_and_their_removal_lets_it_go(set_: SetRisk) -> None:
    desk = Desk()

    desk.do(set_)
    assert CAROL in desk.book.accounts
    desk.do(SetRisk(CAROL, None))
    assert CAROL not in desk.book.accounts


def test_a_position_is_not_forgotten_with_what_was_bought() -> None:
    """Who has sold what he bought it with, and has withdrawn the rest, has still bought in this epoch."""
    desk = limited(position_wh_max=5 * KWH)
    desk.sell(BOB, PRICE, 5 * KWH)
    desk.buy(ALICE, PRICE, 5 * KWH)

    book = decode(encode(desk.book))

    assert book.accounts[ALICE].net_wh == 5 * KWH
    assert book.accounts[BOB].net_wh == -5 * KWH
    desk.wait(desk.book.spec.epoch_seconds)
    desk.tick()
    assert desk.book.accounts[ALICE].net_wh == desk.book.accounts[BOB].net_wh == 0
