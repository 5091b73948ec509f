"""A certificate proves its result, and no other result passes for it.

Seen to fail for each check left out: ends of the range, prices beyond and inside it, turn, midpoint, sums of the cuts,
their orders, fills, self-trade, hash, a denied price, buyers' price; of a network: a lane below its cost, one not full,
capacity, better orders unfilled, limits, pairs, what was left out of one side.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.auction.certificate import Published, orders_hash, problems, publish, zone_problems
from engine.auction.network import Charge, Flow, NetworkResult, clear_network
from engine.auction.orders import AuctionOrder, Fill
from engine.auction.uniform import ZoneResult, clear_zone
from engine.messages import Side
from tests.support.auctions import TICK, listed, rules, wishes
from tests.support.builders import A, B, path
from tests.support.naive_auction import limit_of

BUY, SELL = Side.BUY, Side.SELL
RULES = rules(path(A, A, TICK, 100))
ORDERS = listed(
    (BUY, 1, 10, 3), (BUY, 2, 9, 4), (BUY, 3, 9, 4), (BUY, 4, 4, 2),
    (SELL, 5, 2, 3), (SELL, 6, 3, 5), (SELL, 7, 6, 9), (SELL, 8, 11, 1),
)  # fmt: skip
LINKED = rules(path(A, A), path(B, B), path(A, B, TICK, 0, 3), path(B, A, TICK, 0, 3))
APART = listed(
    (BUY, 1, 3, 2, A), (BUY, 2, 9, 4, B), (BUY, 3, 8, 4, B),
    (SELL, 4, 2, 3, A), (SELL, 5, 3, 5, A), (SELL, 6, 7, 4, B),
)  # fmt: skip


def of_zone() -> Published:
    return publish(ORDERS, RULES, clear_zone(ORDERS, A, RULES))


def of_network() -> Published:
    return publish(APART, LINKED, clear_network(APART, (A, B), LINKED))


def changed(published: Published, **changes: Any) -> list[str]:
    """The problems of the same file with another result in it."""
    if published.zone is not None:
        return list(problems(replace(published, zone=replace(published.zone, **changes))))
    assert published.network is not None
    return list(problems(replace(published, network=replace(published.network, **changes))))


@given(wishes(size_max=14), st.sampled_from((0, 1, 3)), st.sampled_from((0, 100, 9_999)))
def test_every_clearing_of_a_zone_is_believed(orders: list[AuctionOrder], wheeling: int, loss: int) -> None:
    one = rules(path(A, A, wheeling * TICK, loss))

    assert list(problems(publish(orders, one, clear_zone(orders, A, one)))) == []


@given(wishes((A, B), 14), st.sampled_from((0, 1, 3)), st.sampled_from((0, 100, 9_999)), st.sampled_from((-1, 0, 3)))
def test_every_clearing_of_a_network_is_believed(
    orders: list[AuctionOrder], wheeling: int, loss: int, capacity: int
) -> None:
    two = rules(path(A, A), path(B, B), path(A, B, wheeling * TICK, loss, capacity), path(B, A, TICK, 300, 2))

    assert list(problems(publish(orders, two, clear_network(orders, (A, B), two)))) == []


@settings(max_examples=60, deadline=None)
@given(wishes(size_max=8))
def test_no_other_claim_about_the_price_passes(orders: list[AuctionOrder]) -> None:
    """Though surplus, buyers' price, cuts and fills agree with it: all ranges, turns and prices near the true ones."""
    result = clear_zone(orders, A, rules())
    assume(result.price_micro)
    limits = [(order, limit_of(order, rules())) for order in orders]
    near = [step * TICK for step in range(-2, 3)]
    for price in (result.price_micro + step for step in near):
        bids = sum(o.quantity_wh for o, limit in limits if limit and o.side is BUY and limit >= price)
        asks = sum(o.quantity_wh for o, limit in limits if limit and o.side is SELL and limit <= price)
        for low, high, turn in product(near, repeat=3):
            false = replace(
                result,
                price_micro=price,
                buyer_price_micro=price,
                surplus_wh=bids - asks,
                low_micro=result.low_micro + low,
                high_micro=result.high_micro + high,
                turn_micro=result.turn_micro + turn,
            )
            assert (not list(zone_problems(false, orders, rules()))) == (false == result)


def test_less_than_the_volume_is_refused_even_if_everything_fits_it() -> None:
    zone = of_zone().zone
    assert zone is not None
    fills = tuple(replace(one, energy_wh=one.energy_wh - (one.order_id in (3, 7))) for one in zone.fills)
    bid_cut, ask_cut = (replace(cut, energy_wh=cut.energy_wh - 1) for cut in (zone.bid_cut, zone.ask_cut))

    assert changed(of_zone(), fills=fills, bid_cut=bid_cut, ask_cut=ask_cut)


def test_self_trades_that_are_not_left_out_are_refused() -> None:
    orders = listed((BUY, 1, 9, 4), (SELL, 1, 2, 3), (SELL, 2, 3, 3))
    published = publish(orders, rules(), clear_zone(orders, A, rules()))
    fills = (Fill(1, 1, BUY, 4), Fill(2, 1, SELL, 3), Fill(3, 2, SELL, 1))

    assert changed(published, self_trade=None, fills=fills) == [
        "self_trade: who must be left out, or how much, is wrong"
    ]


def test_the_example_trades_as_the_other_tests_assume() -> None:
    zone, network = of_zone().zone, of_network().network

    assert zone is not None
    assert (zone.price_micro, zone.volume_wh, len(zone.fills)) == (6 * TICK, 11, 6)
    assert network is not None
    assert [flow.energy_wh for flow in network.flows] == [2, 3, 4]


def test_a_worse_price_is_refused() -> None:
    """With everything else made to fit it."""
    for price in (3, 5, 7, 8):
        found = changed(of_zone(), price_micro=price * TICK, low_micro=price * TICK, high_micro=price * TICK)
        assert found


def test_a_smaller_volume_is_refused() -> None:
    fewer = [order for order in ORDERS if order.order_id != 7]
    false = clear_zone(fewer, A, RULES)

    assert list(problems(publish(fewer, RULES, false))) == []
    assert list(problems(publish(ORDERS, RULES, false)))


def test_a_skipped_order_is_refused() -> None:
    published = of_zone()
    fewer = tuple(order for order in published.orders if order.order_id != 2)

    assert list(problems(replace(published, orders=fewer))) == ["orders_hash: is not the hash of these orders"]
    assert list(problems(replace(published, orders=fewer, orders_hash=orders_hash(fewer))))


def test_wrong_marginal_orders_are_refused() -> None:
    zone = of_zone().zone
    assert zone is not None

    for cut in (zone.bid_cut, zone.ask_cut):
        name = "bid_cut" if cut is zone.bid_cut else "ask_cut"
        for false in (
            replace(cut, priority=cut.priority - 1),
            replace(cut, level_micro=cut.level_micro + TICK),
            replace(cut, level_micro=cut.level_micro - TICK),
            replace(cut, energy_wh=cut.energy_wh + 1),
        ):
            assert changed(of_zone(), **{name: false}), false


def test_forged_fills_are_refused() -> None:
    zone = of_zone().zone
    assert zone is not None
    first, *others = zone.fills

    assert changed(of_zone(), fills=tuple(others))
    assert changed(of_zone(), fills=(replace(first, energy_wh=first.energy_wh - 1), *others))
    assert changed(of_zone(), fills=(replace(first, participant_id=99), *others))
    assert changed(of_zone(), fills=(first, *others, Fill(4, 4, BUY, 1)))
    assert changed(of_zone(), fills=(*others, first))


def test_a_denied_clearing_is_refused() -> None:
    published = replace(of_zone(), zone=ZoneResult(zone=A))

    assert list(problems(published)) == ["bids meet asks, but the result has no price"]


def test_a_price_for_nothing_is_refused() -> None:
    orders = listed((BUY, 1, 3, 2), (SELL, 2, 5, 2))
    false = ZoneResult(zone=A, price_micro=4 * TICK, buyer_price_micro=4 * TICK)

    assert list(problems(publish(orders, rules(), false)))


def test_self_trades_left_in_or_invented_are_refused() -> None:
    orders = listed((BUY, 1, 9, 4), (SELL, 1, 2, 3), (SELL, 2, 3, 3))
    published = publish(orders, rules(), clear_zone(orders, A, rules()))
    assert published.zone is not None
    assert published.zone.self_trade is not None

    assert list(problems(published)) == []
    assert changed(published, self_trade=None)
    more = replace(published.zone.self_trade, energy_wh=published.zone.self_trade.energy_wh + 1)
    assert changed(published, self_trade=more)
    assert changed(published, self_trade=replace(published.zone.self_trade, participant_id=2))


def network_attacks() -> dict[str, Callable[[NetworkResult], NetworkResult]]:
    def zone(result: NetworkResult, number: int, **changes: Any) -> NetworkResult:
        zones = list(result.zones)
        zones[number] = replace(zones[number], **changes)
        return replace(result, zones=tuple(zones))

    def nothing(result: NetworkResult) -> NetworkResult:
        empty = replace(result, flows=(), fills=(), left_out=(), pairs=())
        for number in range(2):
            cut = replace(result.zones[number].bid_cut, energy_wh=0)
            empty = zone(empty, number, bought_wh=0, sold_wh=0, bid_cut=cut, ask_cut=cut)
        return empty

    def wider(result: NetworkResult) -> NetworkResult:
        more = (replace(one, energy_wh=one.energy_wh + (one.zone_from != one.zone_to)) for one in result.flows)
        return replace(result, flows=tuple(more))

    return {
        "outside its limit": lambda r: zone(r, 1, buyer_price_micro=9 * TICK),
        "better than its zone's price and not filled": nothing,
        "below its cost": lambda r: zone(r, 1, buyer_price_micro=TICK),
        "pays for more than flows": lambda r: replace(r, flows=tuple(f for f in r.flows if f.zone_from == f.zone_to)),
        "which it cannot": wider,
        "what is bought": lambda r: zone(r, 0, bought_wh=r.zones[0].bought_wh + 1),
        "what is sold": lambda r: zone(r, 0, sold_wh=r.zones[0].sold_wh + 1),
        "does not get": lambda r: replace(r, fills=r.fills[1:]),
        "nothing of the kind": lambda r: replace(r, fills=(*r.fills, Fill(99, 1, BUY, 1))),
        "not as much bought as sold": lambda r: replace(r, fills=r.fills[1:], left_out=r.fills[:1]),
        "do not come to the fills": lambda r: replace(r, pairs=r.pairs[1:]),
        "do not trade": lambda r: replace(r, pairs=(*r.pairs, replace(r.pairs[0], ask=r.pairs[0].bid))),
        "is not on the tick": lambda r: zone(r, 1, buyer_price_micro=r.zones[1].buyer_price_micro + 1),
        "has that charge": lambda r: replace(r, fixed_charges=(Charge(A, B, 9 * TICK),)),
        "each may appear once": lambda r: replace(r, zones=(*r.zones, r.zones[0])),
        "has no costs": lambda r: replace(r, flows=(*r.flows, Flow(A, "C", 1))),
        "is no order's": lambda r: zone(r, 0, bid_cut=replace(r.zones[0].bid_cut, priority=99)),
    }


@pytest.mark.parametrize("said", network_attacks())
def test_a_false_network_is_refused_for_its_reason(said: str) -> None:
    published = of_network()
    assert published.network is not None
    assert list(problems(published)) == []

    assert said in " ".join(problems(replace(published, network=network_attacks()[said](published.network))))


def test_another_buyers_price_of_one_zone_is_refused() -> None:
    zone = of_zone().zone
    assert zone is not None

    found = changed(of_zone(), buyer_price_micro=zone.buyer_price_micro + TICK)

    assert found == ["buyer_price: is not the landed price"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "x"}, "format"),
        ({"zone": None}, "only one of them"),
        ({"orders": tuple(reversed(ORDERS))}, "order of priority"),
        ({"orders": (replace(ORDERS[0], price_micro=1_500),)}, "price on the tick"),
        ({"orders": (replace(ORDERS[0], quantity_wh=0),)}, "multiple of the lot"),
        ({"orders": (replace(ORDERS[0], zone="Z"),)}, "not in this auction"),
        ({"rules": replace(RULES, tick_micro=0)}, "tick"),
        ({"rules": replace(RULES, paths=())}, "no costs from A to A"),
    ],
)
def test_what_is_no_auction_is_refused_with_a_reason(change: dict[str, Any], said: str) -> None:
    assert said in " ".join(problems(replace(of_zone(), **change)))


def test_a_file_survives_its_journey() -> None:
    for published in (of_zone(), of_network()):
        assert msgspec.json.decode(msgspec.json.encode(published), type=Published) == published
