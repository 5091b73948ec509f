"""Whom an order meets, at which price, and who pays whom: worked examples."""

import pytest

from engine.accounts import FeeRates
from engine.messages import CURRENCY, EndReason, OrderReduced, SelfTrade, Side, TimeInForce
from tests.support.builders import (
    ALICE,
    BOB,
    CAROL,
    COIN,
    KWH,
    A,
    B,
    Desk,
    accepted,
    ends,
    funded_desk,
    linked,
    market,
    path,
    trades,
    two_zones,
)


def test_taker_pays_the_makers_price_where_nothing_is_charged() -> None:
    desk = funded_desk()
    desk.sell(ALICE, 3_000_000, 2 * KWH)

    (trade,) = trades(desk.buy(BOB, 5_000_000, 2 * KWH))

    assert (trade.buyer_price_micro, trade.seller_price_micro) == (3_000_000, 3_000_000)
    assert (trade.buyer_value_micro, trade.seller_value_micro, trade.grid_micro) == (6 * COIN, 6 * COIN, 0)


def test_a_buy_taker_pays_the_landed_price_and_the_grid_gets_the_difference() -> None:
    desk = funded_desk(two_zones())
    desk.sell(ALICE, 3_500_000, 2 * KWH, zone=A)

    (trade,) = trades(desk.buy(BOB, 6_000_000, 2 * KWH, zone=B))

    assert trade.seller_price_micro == trade.price_micro == 3_500_000
    assert trade.buyer_price_micro == 4_605_000  # 3.500 + 1.00 + 3 % of 3.500
    assert trade.grid_micro == 2_210_000
    assert desk.book.grid_micro == {B: 2_210_000}


def test_a_sell_taker_leaves_the_makers_bid_as_it_is() -> None:
    desk = funded_desk(two_zones())
    desk.buy(BOB, 4_607_000, 1 * KWH, zone=B)

    (trade,) = trades(desk.sell(ALICE, 3_000_000, 1 * KWH, zone=A))

    assert trade.buyer_price_micro == trade.price_micro == 4_607_000
    assert trade.seller_price_micro == 3_501_000  # lands at 4.607 with the loss rounded up; 3.502 would land at 4.608
    assert trade.grid_micro == 1_106_000


def test_a_buyer_takes_the_lowest_landed_price_not_the_lowest_ask() -> None:
    desk = funded_desk(two_zones())
    desk.sell(ALICE, 3_500_000, 1 * KWH, zone=A)  # lands in B at 4.605
    near = desk.sell(CAROL, 4_000_000, 1 * KWH, zone=B)  # lands in B at 4.540

    (trade,) = trades(desk.buy(BOB, 6_000_000, 1 * KWH, zone=B))

    assert accepted(near)
    assert trade.seller_id == CAROL
    assert trade.buyer_price_micro == 4_540_000


def test_equal_landed_prices_of_two_zones_go_by_time() -> None:
    costs = (path(A, A), path(B, B, 1_000), path(B, A))
    desk = funded_desk(market(zones=(A, B), paths=costs, price_micro_min=1_000))
    desk.sell(ALICE, 5_000, 1, zone=B)
    desk.sell(CAROL, 5_000, 1, zone=A)

    (trade,) = trades(desk.buy(BOB, 5_000, 1, zone=A))

    assert trade.seller_id == ALICE


def test_equal_ask_equivalents_go_by_time_not_by_the_bid() -> None:
    desk = funded_desk(market(paths=(path(A, A, 0, 2_500),), price_micro_min=1_000))
    desk.buy(ALICE, 5_000, 1)  # both leave the seller 4,000
    desk.buy(CAROL, 6_000, 1)

    first, second = trades(desk.sell(BOB, 4_000, 2))

    assert [first.buyer_id, second.buyer_id] == [ALICE, CAROL]
    assert [first.buyer_price_micro, second.buyer_price_micro] == [5_000, 6_000]
    assert [first.seller_price_micro, second.seller_price_micro] == [4_000, 4_000]


def test_a_late_better_bid_goes_before_earlier_ones() -> None:
    desk = funded_desk()
    desk.buy(ALICE, 3_000_000, 1)
    desk.buy(CAROL, 3_001_000, 1)

    (trade,) = trades(desk.sell(BOB, 3_000_000, 1))

    assert trade.buyer_id == CAROL


def test_an_ask_exactly_at_the_bid_trades() -> None:
    desk = funded_desk(two_zones())
    desk.sell(ALICE, 3_500_000, 1, zone=A)

    assert trades(desk.buy(BOB, 4_605_000, 1, zone=B))
    desk.sell(ALICE, 3_500_000, 1, zone=A)
    assert not trades(desk.buy(BOB, 4_604_000, 1, zone=B))


def test_a_taker_walks_through_the_levels_until_its_limit() -> None:
    desk = funded_desk()
    for price in (3_000_000, 4_000_000, 5_000_000):
        desk.sell(ALICE, price, 1)

    found = trades(desk.buy(BOB, 4_000_000, 3))

    assert [trade.price_micro for trade in found] == [3_000_000, 4_000_000]
    assert desk.book.orders[desk.last_id].remaining_wh == 1


def test_trades_are_numbered_one_by_one() -> None:
    desk = funded_desk()
    desk.sell(ALICE, 3_000_000, 1)
    desk.sell(ALICE, 3_000_000, 1)

    assert [trade.number for trade in trades(desk.buy(BOB, 3_000_000, 2))] == [1, 2]


# --- fees -----------------------------------------------------------------------------------------------------------


def test_fees_are_of_each_sides_own_value_rounded_up() -> None:
    desk = funded_desk(two_zones(maker_fee_bps=10, taker_fee_bps=25))
    desk.sell(ALICE, 3_500_000, 333, zone=A)

    (trade,) = trades(desk.buy(BOB, 6_000_000, 333, zone=B))

    assert trade.buyer_value_micro == 1_533_465  # 0.333 kWh at 4.605
    assert trade.buyer_fee_micro == 3_834  # 25 bps are 3833.66
    assert trade.seller_value_micro == 1_165_500
    assert trade.seller_fee_micro == 1_166  # 10 bps are 1165.5
    assert desk.book.fees_micro == 5_000


def test_many_small_fills_pay_the_fee_of_one_large_one() -> None:
    desk = funded_desk(market(price_micro_min=1_000, taker_fee_bps=100))
    for _ in range(5):
        desk.sell(ALICE, 10_000, 1)

    fees = [trade.buyer_fee_micro for trade in trades(desk.buy(BOB, 10_000, 5))]

    assert fees == [1, 0, 0, 0, 0]  # 1 % of 50 micro is 0.5, rounded up once


def test_a_rebate_comes_out_of_the_takers_fee() -> None:
    desk = funded_desk(market(maker_fee_bps=-10, taker_fee_bps=25))
    desk.sell(ALICE, 4_000_000, KWH)
    before = desk.free(ALICE)

    (trade,) = trades(desk.buy(BOB, 4_000_000, KWH))

    assert (trade.buyer_fee_micro, trade.seller_fee_micro) == (10_000, -4_000)
    assert desk.free(ALICE) - before == 4_004_000
    assert desk.book.fees_micro == 6_000


def test_a_rebate_is_rounded_down_and_never_above_the_takers_fee() -> None:
    desk = funded_desk(market(maker_fee_bps=-20, taker_fee_bps=20))
    desk.sell(ALICE, 1_999_000, 1)

    (trade,) = trades(desk.buy(BOB, 1_999_000, 1))

    assert (trade.buyer_fee_micro, trade.seller_fee_micro) == (4, -3)  # 3.998 up, 3.998 down


def test_a_programmes_rebate_is_cut_at_the_takers_fee() -> None:
    desk = funded_desk(market(taker_fee_bps=5))
    desk.book.accounts[ALICE].fees = FeeRates(-50, 5)
    desk.sell(ALICE, 4_000_000, KWH)

    (trade,) = trades(desk.buy(BOB, 4_000_000, KWH))

    assert (trade.buyer_fee_micro, trade.seller_fee_micro) == (2_000, -2_000)


# --- self-trade prevention ------------------------------------------------------------------------------------------


def own_pair(rule: SelfTrade, maker_wh: int, taker_wh: int) -> tuple[Desk, list[tuple[int, int, int]], int, int]:
    """Alice rests a sell and takes with a buy; (desk, ends, maker id, taker id)."""
    desk = funded_desk()
    desk.sell(ALICE, 4_000_000, maker_wh)
    maker_id = desk.last_id
    found = ends(desk.buy(ALICE, 4_000_000, taker_wh, self_trade=rule))
    assert not any(trades(events) for events in desk.steps)
    return desk, found, maker_id, desk.last_id


def test_cancel_newest_ends_the_taker() -> None:
    desk, found, maker_id, taker_id = own_pair(SelfTrade.CANCEL_NEWEST, 5, 3)

    assert found == [(taker_id, EndReason.SELF_TRADE, 3)]
    assert set(desk.book.orders) == {maker_id}


def test_cancel_oldest_ends_the_maker_and_the_taker_goes_on() -> None:
    desk, found, maker_id, taker_id = own_pair(SelfTrade.CANCEL_OLDEST, 5, 3)

    assert found == [(maker_id, EndReason.SELF_TRADE, 5)]
    assert set(desk.book.orders) == {taker_id}


def test_cancel_both_ends_both() -> None:
    desk, found, maker_id, taker_id = own_pair(SelfTrade.CANCEL_BOTH, 5, 3)

    assert found == [(maker_id, EndReason.SELF_TRADE, 5), (taker_id, EndReason.SELF_TRADE, 3)]
    assert not desk.book.orders


@pytest.mark.parametrize(("maker_wh", "taker_wh"), [(5, 3), (3, 5), (4, 4)])
def test_decrement_takes_the_smaller_off_both(maker_wh: int, taker_wh: int) -> None:
    desk, found, maker_id, taker_id = own_pair(SelfTrade.DECREMENT, maker_wh, taker_wh)

    both = min(maker_wh, taker_wh)
    assert [e for e in desk.steps[-1] if isinstance(e, OrderReduced)] == [
        OrderReduced(maker_id, both),
        OrderReduced(taker_id, both),
    ]
    left = {maker_id: maker_wh - both, taker_id: taker_wh - both}
    assert found == [(order_id, EndReason.SELF_TRADE, 0) for order_id, wh in left.items() if wh == 0]
    assert {order.order_id: order.quantity_wh for order in desk.book.orders.values()} == {
        order_id: wh for order_id, wh in left.items() if wh
    }
    assert desk.reserved(ALICE, A) == left[maker_id]
    assert desk.reserved(ALICE) == left[taker_id] * 4_000


def test_self_trade_prevention_lets_earlier_orders_of_others_trade_first() -> None:
    desk = funded_desk()
    desk.sell(BOB, 4_000_000, 1)
    desk.sell(ALICE, 4_000_000, 1)

    events = desk.buy(ALICE, 4_000_000, 2)

    assert [trade.seller_id for trade in trades(events)] == [BOB]
    assert ends(events)[-1] == (desk.last_id, EndReason.SELF_TRADE, 1)


# --- fill or kill, links --------------------------------------------------------------------------------------------


def kill_reason(desk: Desk, side: Side, participant_id: int, price_micro: int, wh: int, **more: object) -> int | None:
    """How a fill-or-kill order ended when it was not filled."""
    send = desk.buy if side is Side.BUY else desk.sell
    events = send(participant_id, price_micro, wh, time_in_force=TimeInForce.FOK, **more)
    (reason,) = (reason for order_id, reason, _ in ends(events) if order_id == desk.last_id)
    assert sum(trade.energy_wh for trade in trades(events)) == (wh if reason == EndReason.FILLED else 0)
    return None if reason == EndReason.FILLED else reason


def test_fill_or_kill_takes_several_levels_or_nothing() -> None:
    desk = funded_desk()
    desk.sell(ALICE, 3_000_000, 2)
    desk.sell(ALICE, 4_000_000, 2)

    assert kill_reason(desk, Side.BUY, BOB, 4_000_000, 5) == EndReason.FOK_UNFILLABLE
    assert kill_reason(desk, Side.BUY, BOB, 3_999_000, 3) == EndReason.FOK_UNFILLABLE
    assert kill_reason(desk, Side.BUY, BOB, 4_000_000, 4) is None


def test_fill_or_kill_does_not_count_own_orders() -> None:
    desk = funded_desk()
    desk.sell(BOB, 3_000_000, 1)
    desk.sell(ALICE, 4_000_000, 2)

    assert kill_reason(desk, Side.BUY, BOB, 4_000_000, 2) == EndReason.FOK_UNFILLABLE
    assert kill_reason(desk, Side.BUY, BOB, 4_000_000, 2, self_trade=SelfTrade.DECREMENT) == EndReason.FOK_UNFILLABLE
    assert kill_reason(desk, Side.BUY, BOB, 4_000_000, 2, self_trade=SelfTrade.CANCEL_OLDEST) is None


def test_an_own_order_behind_the_last_one_needed_is_no_matter() -> None:
    desk = funded_desk()
    desk.sell(ALICE, 3_000_000, 2)
    desk.sell(BOB, 3_000_000, 2)

    assert kill_reason(desk, Side.BUY, BOB, 4_000_000, 2) is None


def test_fill_or_kill_counts_what_the_link_still_carries() -> None:
    desk = funded_desk(linked(capacity_wh=5))
    desk.sell(ALICE, 3_000_000, 10, zone=A)

    assert kill_reason(desk, Side.BUY, BOB, 4_000_000, 6, zone=B) == EndReason.FOK_UNFILLABLE
    assert kill_reason(desk, Side.BUY, BOB, 4_000_000, 5, zone=B) is None


def test_fill_or_kill_passes_by_an_own_order_behind_a_full_link() -> None:
    desk = funded_desk(linked(capacity_wh=5))
    desk.sell(ALICE, 3_000_000, 5, zone=A)
    desk.buy(CAROL, 4_000_000, 5, zone=B)  # the link is full now
    desk.buy(BOB, 4_000_000, 1, zone=B)
    desk.buy(ALICE, 3_500_000, 2, zone=A)

    assert kill_reason(desk, Side.SELL, BOB, 3_500_000, 2, zone=A) is None


def test_fill_or_kill_counts_equal_bids_by_time_across_levels() -> None:
    desk = funded_desk(market(paths=(path(A, A, 0, 2_500),), price_micro_min=1_000))
    desk.buy(ALICE, 5_000, 1)
    desk.buy(BOB, 6_000, 1)  # an own order that the seller would meet second

    assert kill_reason(desk, Side.SELL, BOB, 4_000, 1) is None
    desk.buy(ALICE, 5_000, 1)
    assert kill_reason(desk, Side.SELL, BOB, 4_000, 1) == EndReason.FOK_UNFILLABLE
    assert kill_reason(desk, Side.SELL, CAROL, 4_000, 3) == EndReason.FOK_UNFILLABLE
    assert kill_reason(desk, Side.SELL, CAROL, 5_000, 1) == EndReason.FOK_UNFILLABLE


def test_many_small_fills_do_not_oversell_a_link() -> None:
    desk = funded_desk(linked(capacity_wh=5))
    desk.sell(ALICE, 3_000_000, 100, zone=A)

    passed = sum(t.energy_wh for _ in range(10) for t in trades(desk.buy(BOB, 4_000_000, 1, zone=B)))

    assert passed == 5


def test_a_full_link_leaves_trades_within_the_zone_alone() -> None:
    desk = funded_desk(linked(capacity_wh=1))
    desk.sell(ALICE, 3_000_000, 10, zone=A)
    desk.buy(BOB, 4_000_000, 5, zone=B)

    (trade,) = trades(desk.buy(CAROL, 4_000_000, 5, zone=A))

    assert trade.energy_wh == 5


def test_orders_that_a_full_link_kept_apart_trade_in_the_next_epoch_by_age() -> None:
    desk = funded_desk(linked(capacity_wh=2))
    desk.sell(ALICE, 3_000_000, 10, zone=A)
    desk.buy(BOB, 4_000_000, 2, zone=B)
    desk.buy(CAROL, 4_000_000, 1, zone=B)
    desk.buy(BOB, 5_000_000, 5, zone=B)
    desk.wait(900)

    found = trades(desk.tick())

    assert [(trade.buyer_id, trade.energy_wh) for trade in found] == [(CAROL, 1), (BOB, 1)]
    assert all(trade.taker_side is Side.BUY for trade in found)  # they arrived later than the ask
    desk.wait(900)
    assert [trade.energy_wh for trade in trades(desk.tick())] == [2]


def test_a_post_only_order_does_not_take_when_it_arrives_again() -> None:
    desk = funded_desk(linked(capacity_wh=2))
    desk.sell(ALICE, 3_000_000, 10, zone=A)
    desk.buy(BOB, 4_000_000, 2, zone=B)
    desk.buy(CAROL, 4_000_000, 1, zone=B, post_only=True)
    order_id = desk.last_id
    desk.wait(900)

    events = desk.tick()

    assert not trades(events)
    assert ends(events) == [(order_id, EndReason.POST_ONLY_WOULD_TRADE, 1)]


def test_a_post_only_order_may_be_taken_when_another_arrives_again() -> None:
    desk = funded_desk(linked(capacity_wh=2))
    desk.sell(ALICE, 3_000_000, 2, zone=A)
    desk.buy(BOB, 4_000_000, 2, zone=B)
    desk.buy(CAROL, 4_000_000, 1, zone=B, post_only=True)
    desk.sell(ALICE, 3_500_000, 1, zone=A)
    desk.wait(900)

    (trade,) = trades(desk.tick())

    assert (trade.buyer_id, trade.price_micro, trade.taker_side) == (CAROL, 4_000_000, Side.SELL)


def test_energy_arrives_in_the_buyers_zone() -> None:
    desk = funded_desk(linked(capacity_wh=-1))
    before = desk.free(BOB, B), desk.free(ALICE, A), desk.free(ALICE, CURRENCY)
    desk.sell(ALICE, 3_000_000, KWH, zone=A)

    desk.buy(BOB, 3_000_000, KWH, zone=B)

    after = desk.free(BOB, B), desk.free(ALICE, A), desk.free(ALICE, CURRENCY)
    assert [b - a for a, b in zip(before, after, strict=True)] == [KWH, -KWH, 3 * COIN]
