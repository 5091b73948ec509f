"""Stop orders one by one: what triggers them, in which order they enter, what they reserve, how they change and end.

Seen to fail for: a stop that the last price has reached and is taken, > for >= at the stop price, the younger stop
before the older one, a place in the queue from before the trigger, a cancelled stop that triggers.
"""

from typing import Any

import pytest

from engine.book.state import decode, encode
from engine.book.stops import STOPS_OF_ONE_MAX
from engine.market import Phase, RiskLimits
from engine.messages import (
    AmendOrder,
    CancelAllAt,
    EndReason,
    Entry,
    FireStop,
    OrderAmended,
    OrderKind,
    PlaceOrder,
    RejectCode,
    SetPhase,
    SetRisk,
    Side,
    StopMoved,
    StopTriggered,
    TimeInForce,
)
from engine.units import SECOND_US
from tests.support.builders import (
    ALICE,
    BOB,
    CAROL,
    A,
    Desk,
    accepted,
    ends,
    funded_desk,
    market,
    order,
    refusal,
    trades,
)

P = 1_000_000
KWH = 1_000


def stop(side: Side, who: int, stop_micro: int, limit_micro: int = 0, wh: int = KWH, **more: Any) -> PlaceOrder:
    kind = OrderKind.STOP_LIMIT if limit_micro else OrderKind.STOP
    return order(side, who, limit_micro, wh, kind=kind, stop_price_micro=stop_micro, **more)


def traded_at(desk: Desk, price: int, wh: int = 1) -> list[int]:
    """CAROL sells to BOB at this price; the stops that this triggers, in order."""
    desk.sell(CAROL, price, wh)
    told = desk.buy(BOB, price, wh)
    return [event.order_id for event in told if isinstance(event, StopTriggered)]


def place(desk: Desk, command: PlaceOrder) -> int:
    assert accepted(desk.do(command))
    return desk.last_id


def test_a_trade_at_the_stop_price_triggers_and_one_before_it_does_not() -> None:
    desk = funded_desk()
    buys, sells = place(desk, stop(Side.BUY, ALICE, 5 * P)), place(desk, stop(Side.SELL, ALICE, 3 * P))

    assert traded_at(desk, 4 * P) == []
    assert traded_at(desk, 4_999_000) == []
    assert traded_at(desk, 3_001_000) == []
    assert traded_at(desk, 5 * P) == [buys]
    assert traded_at(desk, 6 * P) == []
    assert traded_at(desk, 3 * P) == [sells]


def test_a_triggered_stop_is_a_market_order_of_its_own_entry() -> None:
    desk = funded_desk()
    number = place(desk, stop(Side.BUY, ALICE, 5 * P))
    desk.sell(CAROL, 5_500_000, 400)
    traded_at(desk, 5 * P)

    told = desk.do(FireStop())

    assert [(t.taker_order_id, t.price_micro, t.energy_wh) for t in trades(told)] == [(number, 5_500_000, 400)]
    assert ends(told)[-1] == (number, EndReason.IOC_REMAINDER, 600)
    assert desk.do(FireStop()) == []


def test_a_stop_limit_order_rests_at_its_limit_with_the_place_of_its_trigger() -> None:
    desk = funded_desk()
    number = place(desk, stop(Side.BUY, ALICE, 5 * P, 4 * P))
    desk.buy(BOB, 4 * P, KWH)
    other = desk.last_id
    traded_at(desk, 5 * P)
    desk.do(FireStop())

    told = desk.sell(CAROL, 4 * P, 2 * KWH)

    assert [trade.maker_order_id for trade in trades(told)] == [other, number]


def test_stops_enter_as_a_moving_price_reaches_them_then_by_age() -> None:
    desk = funded_desk()
    far, near, near_and_late = (place(desk, stop(Side.BUY, ALICE, price)) for price in (5 * P, 4_500_000, 4_500_000))
    low, lower = place(desk, stop(Side.SELL, ALICE, 3 * P)), place(desk, stop(Side.SELL, ALICE, 2 * P))
    desk.do(AmendOrder(ALICE, near, stop_price_micro=4_600_000))

    assert traded_at(desk, 6 * P) == [near_and_late, near, far]
    assert traded_at(desk, 1 * P) == [low, lower]
    fired = [ends(desk.do(FireStop()))[0][0] for _ in range(5)]
    assert fired == [near_and_late, near, far, low, lower]


def test_one_stops_trade_triggers_the_next() -> None:
    desk = funded_desk()
    first, second = place(desk, stop(Side.BUY, ALICE, 5 * P)), place(desk, stop(Side.BUY, BOB, 6 * P))
    desk.sell(CAROL, 6 * P, 3 * KWH)
    desk.do(order(Side.SELL, CAROL, 5 * P, 1))
    desk.buy(BOB, 5 * P, 1)

    told = desk.do(FireStop())

    assert StopTriggered(second) in told
    assert trades(told)[0].taker_order_id == first
    assert trades(desk.do(FireStop()))[0].taker_order_id == second


def test_a_stop_reserves_at_entry_what_it_can_cost_and_keeps_it() -> None:
    desk = funded_desk(market(taker_fee_bps=100, price_micro_max=10 * P))
    before = desk.free(ALICE)
    place(desk, stop(Side.BUY, ALICE, 5 * P))  # without a limit: the corridor's end, and the fee
    assert before - desk.free(ALICE) == desk.reserved(ALICE) == 10_100_000
    place(desk, stop(Side.BUY, ALICE, 5 * P, 6 * P))
    assert desk.reserved(ALICE) == 10_100_000 + 6_060_000
    place(desk, stop(Side.SELL, ALICE, 3 * P))
    assert desk.reserved(ALICE, A) == KWH

    traded_at(desk, 5 * P)
    desk.do(FireStop())
    desk.do(FireStop())

    assert desk.reserved(ALICE) == 6_060_000  # the stop-limit order rests
    poor = Desk()
    assert refusal(poor.do(stop(Side.SELL, ALICE, 3 * P))) is RejectCode.INSUFFICIENT_ENERGY


def test_what_is_no_stop_is_refused() -> None:
    desk = funded_desk()
    traded_at(desk, 4 * P)
    for command, code in (
        (stop(Side.BUY, ALICE, 0), RejectCode.VALIDATION_FAILED),
        (stop(Side.BUY, ALICE, 5_000_001), RejectCode.PRICE_OFF_TICK),
        (stop(Side.BUY, ALICE, 21 * P), RejectCode.PRICE_OUTSIDE_CORRIDOR),
        (stop(Side.BUY, ALICE, 4 * P), RejectCode.CONFLICT),
        (stop(Side.SELL, ALICE, 4 * P), RejectCode.CONFLICT),
        (
            order(Side.BUY, ALICE, 0, 1, kind=OrderKind.STOP_LIMIT, stop_price_micro=5 * P),
            RejectCode.PRICE_OUTSIDE_CORRIDOR,
        ),
    ):
        assert refusal(desk.do(command)) is code
    for _ in range(STOPS_OF_ONE_MAX):
        place(desk, stop(Side.BUY, ALICE, 5 * P, wh=1))
    assert refusal(desk.do(stop(Side.BUY, ALICE, 5 * P))) is RejectCode.CONFLICT
    assert accepted(desk.do(stop(Side.BUY, BOB, 5 * P)))


def test_a_waiting_stop_is_cancelled_amended_and_expires_like_any_order() -> None:
    desk = funded_desk()
    numbers = [place(desk, stop(Side.BUY, ALICE, 5 * P, 6 * P)) for _ in range(3)]
    late = place(desk, stop(Side.BUY, ALICE, 5 * P, 6 * P, expires_us=desk.time_us + SECOND_US))
    assert ends(desk.cancel(ALICE, numbers[0])) == [(numbers[0], EndReason.CANCELLED_BY_OWNER, KWH)]
    told = desk.do(AmendOrder(ALICE, numbers[1], 7 * P, 2 * KWH, 5_500_000))
    assert told == [StopMoved(numbers[1], 5_500_000), OrderAmended(numbers[1], 7 * P, 2 * KWH)]
    assert desk.reserved(ALICE) == (14 + 6 + 6) * P
    desk.wait(1)
    assert ends(desk.tick()) == [(late, EndReason.EXPIRED, KWH)]

    assert traded_at(desk, 5 * P) == [numbers[2]]
    assert traded_at(desk, 5_500_000) == [numbers[1]]
    assert refusal(desk.do(AmendOrder(ALICE, numbers[1], stop_price_micro=6 * P))) is RejectCode.VALIDATION_FAILED
    assert ends(desk.cancel(ALICE, numbers[1]))
    assert [desk.do(FireStop()) != [] for _ in range(2)] == [False, False]
    assert numbers[2] in desk.book.orders


def test_kill_and_dead_man_end_stops_too_and_limits_count_them() -> None:
    desk = funded_desk()
    desk.do(SetRisk(ALICE, RiskLimits(orders_max=1)))
    number = place(desk, stop(Side.BUY, ALICE, 5 * P))
    assert refusal(desk.do(stop(Side.BUY, ALICE, 5 * P))) is RejectCode.RISK_LIMIT
    assert ends(desk.do(SetRisk(ALICE, None, is_blocked=True))) == [(number, EndReason.RISK, KWH)]
    other = place(desk, stop(Side.SELL, BOB, 2 * P))
    desk.do(CancelAllAt(BOB, desk.time_us + SECOND_US))
    desk.wait(1)
    assert ends(desk.tick()) == [(other, EndReason.DEAD_MAN, KWH)]
    assert traded_at(desk, 10 * P) == []


@pytest.mark.parametrize(("limit", "outcome"), [(0, EndReason.HALTED), (6 * P, None)])
def test_what_is_triggered_while_the_market_halts_rests_or_ends(limit: int, outcome: EndReason | None) -> None:
    desk = funded_desk()
    number = place(desk, stop(Side.BUY, ALICE, 5 * P, limit))
    traded_at(desk, 5 * P)
    desk.sell(CAROL, 5 * P, KWH)
    desk.do(SetPhase(Phase.HALTED))

    told = desk.do(FireStop())

    assert [reason for _, reason, _ in ends(told)] == ([outcome] if outcome else [])
    assert not trades(told)
    resumed = trades(desk.do(SetPhase(Phase.OPEN)))
    assert [trade.taker_order_id for trade in resumed] == ([] if outcome else [number])


def test_post_only_and_fill_or_kill_hold_when_the_stop_enters() -> None:
    desk = funded_desk()
    for more in ({"post_only": True}, {"time_in_force": TimeInForce.FOK}):
        place(desk, stop(Side.BUY, ALICE, 5 * P, 6 * P, 2 * KWH, **more))
    traded_at(desk, 5 * P)
    desk.sell(CAROL, 5_500_000, KWH)

    reasons = [ends(desk.do(FireStop()))[0][1] for _ in range(2)]

    assert reasons == [EndReason.POST_ONLY_WOULD_TRADE, EndReason.FOK_UNFILLABLE]


def test_what_waits_and_what_was_triggered_outlive_a_snapshot() -> None:
    desk = funded_desk()
    for price in (5 * P, 4_500_000, 7 * P):
        place(desk, stop(Side.BUY, ALICE, price, 8 * P))
    desk.do(AmendOrder(ALICE, desk.last_id, stop_price_micro=6 * P))
    traded_at(desk, 5 * P)

    book = decode(encode(desk.book))

    assert encode(book) == encode(desk.book)
    for _ in range(2):
        entry = Entry(book.sequence + 1, desk.time_us, FireStop())
        assert book.apply(entry) == desk.do(FireStop())
    assert encode(book) == encode(desk.book)
