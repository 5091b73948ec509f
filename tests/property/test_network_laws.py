"""The auction of several zones obeys its laws; its welfare is held against linear programmes solved by HiGHS.

Seen to fail for: a capacity not looked at, a loss forgotten, nobody's price raised, slack of rounding left in a price,
marginal bids or asks not routed by priority, marginal orders by zone, what was left out not taken off the fills.
"""

import random
from collections import Counter

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.auction.network import NetworkResult, clear_network
from engine.auction.orders import AuctionOrder, Rules
from engine.auction.prices import Curve, Lane, clearing_prices
from engine.auction.uniform import clear_zone
from engine.market import UNLIMITED_WH, Path, landed
from engine.messages import Side
from engine.units import value_micro
from tests.property.histories import EXAMPLES
from tests.support.auctions import TICK, rules, wishes
from tests.support.builders import A, path
from tests.support.naive_auction import best_welfare, charge, limit_of, naive_network_prices, welfare

ZONES = ("A", "B", "C")
costs = st.tuples(
    st.sampled_from((0, 0, 1, 2)), st.sampled_from((0, 100, 2_500, 9_999)), st.sampled_from((UNLIMITED_WH, 0, 1, 2, 5))
)


@st.composite
def networks(draw: st.DrawFn) -> Rules:
    """Three zones; each has costs within itself, other pairs may lack them."""
    paths = [path(zone, zone, wheeling * TICK, loss) for zone in ZONES for wheeling, loss, _ in (draw(costs),)]
    for zone_from in ZONES:
        for zone_to in ZONES:
            if zone_from != zone_to and draw(st.integers(0, 3)):
                wheeling, loss, capacity = draw(costs)
                paths.append(path(zone_from, zone_to, wheeling * TICK, loss, capacity))
    return rules(*paths, price_micro_min=draw(st.integers(1, 3)) * TICK)


@st.composite
def two_zone_networks(draw: st.DrawFn) -> Rules:
    paths = [
        path(a, b, wheeling * TICK, loss, UNLIMITED_WH if a == b else capacity)
        for a in "AB"
        for b in "AB"
        for wheeling, loss, capacity in (draw(costs),)
    ]
    return rules(*paths, price_micro_max=5 * TICK)


def curves_of(orders: list[AuctionOrder], zones: tuple[str, ...], given_rules: Rules, side: Side) -> list[Curve]:
    found: list[Counter[int]] = [Counter() for _ in zones]
    for order in orders:
        limit = limit_of(order, given_rules)
        if order.side is side and limit is not None:
            found[zones.index(order.zone)][limit] += order.quantity_wh
    return [Curve(curve) for curve in found]


def prices(result: NetworkResult) -> tuple[dict[str, int], dict[str, int]]:
    """By zone: what its sellers receive and its buyers pay, where anything traded."""
    sellers = {one.zone: one.seller_price_micro for one in result.zones if one.sold_wh}
    return sellers, {one.zone: one.buyer_price_micro for one in result.zones if one.bought_wh}


def accepted(result: NetworkResult) -> Counter[int]:
    """By order, with what was left out for self-trades."""
    return Counter({fill.order_id: fill.energy_wh for fill in result.fills}) + Counter(
        {fill.order_id: fill.energy_wh for fill in result.left_out}
    )


@given(wishes(ZONES, 16), networks())
def test_prices_are_consistent_with_every_lane(orders: list[AuctionOrder], given_rules: Rules) -> None:
    result = clear_network(orders, ZONES, given_rules)

    sellers, buyers = prices(result)
    flows = {(flow.zone_from, flow.zone_to): flow.energy_wh for flow in result.flows}
    fixed = {(one.zone_from, one.zone_to): one.charge_micro for one in result.fixed_charges}
    assert all(energy_wh > 0 for energy_wh in flows.values())
    for lane in given_rules.paths:
        pair = (lane.zone_from, lane.zone_to)
        flow = flows.pop(pair, 0)
        limited = lane.zone_from != lane.zone_to and lane.capacity_wh != UNLIMITED_WH
        assert not limited or flow <= lane.capacity_wh
        if lane.zone_from in sellers and lane.zone_to in buyers:
            seller = sellers[lane.zone_from]
            lands_at, next_tick = (
                price + fixed[pair] if pair in fixed else landed(price, lane.wheeling_micro, lane.loss_bps, TICK)
                for price in (seller, seller + TICK)
            )
            if flow:
                assert buyers[lane.zone_to] >= lands_at
            if not limited or flow < lane.capacity_wh:
                assert buyers[lane.zone_to] < next_tick
    assert not flows  # energy goes only where there is a path


@given(wishes(ZONES, 16), networks())
def test_nobody_trades_outside_his_limit_and_better_orders_trade(
    orders: list[AuctionOrder], given_rules: Rules
) -> None:
    result = clear_network(orders, ZONES, given_rules)

    sellers, buyers = prices(result)
    got = accepted(result)
    for order in orders:
        limit, energy_wh = limit_of(order, given_rules), got.pop(order.order_id, 0)
        price = (buyers if order.side is Side.BUY else sellers).get(order.zone)
        assert 0 <= energy_wh <= order.quantity_wh
        if limit is None or price is None:
            assert energy_wh == 0
        elif limit != price:
            inside = limit > price if order.side is Side.BUY else limit < price
            assert energy_wh == (order.quantity_wh if inside else 0)
    assert not got


@given(wishes(ZONES, 16), networks())
def test_welfare_is_the_optimum_for_the_charges_that_are_paid(orders: list[AuctionOrder], given_rules: Rules) -> None:
    """Exactly, with the rounding that the grid gets counted as a charge; without it, a tick per kWh at most is lost."""
    result = clear_network(orders, ZONES, given_rules)
    assume(not result.fixed_charges)

    sellers, buyers = prices(result)
    plain, paid = dict[Path, int](), dict[Path, int]()
    for lane in given_rules.paths:
        if lane.zone_from not in sellers:
            continue
        plain[lane] = paid[lane] = charge(lane, sellers[lane.zone_from], given_rules)
        top = landed(sellers[lane.zone_from] + TICK, lane.wheeling_micro, lane.loss_bps, TICK) - TICK
        if lane.zone_to in buyers:
            paid[lane] = min(max(buyers[lane.zone_to], sellers[lane.zone_from] + plain[lane]), top)
            paid[lane] -= sellers[lane.zone_from]
    active = [
        order
        for order in orders
        if (order.zone in sellers and order.side is Side.SELL) or (order.zone in buyers and order.side is Side.BUY)
    ]
    reached = welfare(result, orders, given_rules, paid)
    best, _ = best_welfare(active, ZONES, given_rules, paid)
    assert abs(best - reached) < 1
    reached_plain = welfare(result, orders, given_rules, plain)
    best_plain, volume = best_welfare(active, ZONES, given_rules, plain)
    assert reached_plain - 1 < best_plain < reached_plain + TICK * volume + 1


@given(wishes(ZONES, 16), networks())
def test_energy_and_money_balance_and_pairs_come_to_the_fills(orders: list[AuctionOrder], given_rules: Rules) -> None:
    result, known = clear_network(orders, ZONES, given_rules), {order.order_id: order for order in orders}

    sellers, buyers = prices(result)
    booked, grid, paid, received = Counter[int](), 0, 0, 0
    for one in result.pairs:
        assert not one.is_self_trade
        booked[one.bid.order_id] += one.energy_wh
        booked[one.ask.order_id] += one.energy_wh
        seller, buyer = known[one.ask.order_id].zone, known[one.bid.order_id].zone
        rent = value_micro(buyers[buyer], one.energy_wh) - value_micro(sellers[seller], one.energy_wh)
        least = charge(given_rules.path(seller, buyer), sellers[seller], given_rules)
        least = {(c.zone_from, c.zone_to): c.charge_micro for c in result.fixed_charges}.get((seller, buyer), least)
        assert rent >= value_micro(least, one.energy_wh)
        grid += rent
    for fill in result.fills:
        if fill.side is Side.BUY:
            paid += value_micro(buyers[known[fill.order_id].zone], fill.energy_wh)
        else:
            received += value_micro(sellers[known[fill.order_id].zone], fill.energy_wh)
    assert booked == Counter({fill.order_id: fill.energy_wh for fill in result.fills})
    assert paid == received + grid
    bought = Counter[str]()
    for order_id, energy_wh in accepted(result).items():
        bought[known[order_id].side.name + known[order_id].zone] += energy_wh
    for zone in result.zones:
        assert (bought["BUY" + zone.zone], bought["SELL" + zone.zone]) == (zone.bought_wh, zone.sold_wh)


@given(wishes(ZONES, 14), networks(), st.integers(0, 2**32))
def test_the_order_of_lists_changes_nothing(orders: list[AuctionOrder], given_rules: Rules, seed: int) -> None:
    draw = random.Random(seed)
    shuffled, paths, zones = list(orders), list(given_rules.paths), list(ZONES)
    for one in (shuffled, paths, zones):
        draw.shuffle(one)

    again = clear_network(shuffled, zones, rules(*paths, price_micro_min=given_rules.price_micro_min))

    assert again == clear_network(orders, ZONES, given_rules)


@given(wishes((A,), 14), st.sampled_from((0, 1, 3)), st.sampled_from((0, 100, 2_500, 9_999)))
def test_one_zone_alone_trades_what_the_auction_of_one_zone_does(
    orders: list[AuctionOrder], wheeling: int, loss: int
) -> None:
    """The price may differ: there midpoints, here the lowest that clears."""
    one = rules(path(A, A, wheeling * TICK, loss))

    network, zone = clear_network(orders, (A,), one), clear_zone(orders, A, one)

    assert network.zones[0].bought_wh == zone.volume_wh
    if loss == 0 and zone.volume_wh:
        assert zone.ask_cut.level_micro <= network.zones[0].seller_price_micro <= zone.bid_cut.level_micro


@settings(max_examples=max(10, EXAMPLES // 4))
@given(wishes(("A", "B"), 10, 5), two_zone_networks())
def test_prices_clear_and_without_losses_are_the_lowest_that_do(orders: list[AuctionOrder], given_rules: Rules) -> None:
    """Every pair of buyers' and every pair of sellers' prices is tried: also a proof that there are such prices."""
    clearing = naive_network_prices(orders, ("A", "B"), given_rules, 6)
    curves = [curves_of(orders, ("A", "B"), given_rules, side) for side in Side]
    lanes = [Lane(one, "AB".index(one.zone_from), "AB".index(one.zone_to), 1) for one in given_rules.paths]

    buyers, situation = clearing_prices(curves[Side.BUY], curves[Side.SELL], lanes, TICK)

    assert clearing
    if lanes[0].charge_micro is not None:
        return
    assert tuple(buyers) in {found for found, _ in clearing}
    if not any(lane.path.loss_bps for lane in lanes):
        assert tuple(buyers) == tuple(min(found[zone] for found, _ in clearing) for zone in range(2))
    for zone, asks in enumerate(curves[Side.SELL]):
        if asks.prices:  # without any asks a sellers' price means nothing
            highest = max(found[zone] for prices, found in clearing if prices == tuple(buyers))
            assert min(situation.seller_prices[zone], 6) == highest


@given(wishes(ZONES, 12, 3), networks())
def test_marginal_orders_of_all_zones_go_by_priority(orders: list[AuctionOrder], given_rules: Rules) -> None:
    """No order at its zone's price got less while a later one of another zone got something that could have been his.

    Tried on lanes without a limit and without costs, where any bid can have what any other has.
    """
    free = rules(*(path(a, b) for a in ZONES for b in ZONES), price_micro_min=given_rules.price_micro_min)
    result = clear_network(orders, ZONES, free)

    got = accepted(result)
    _, buyers = prices(result)
    if not buyers:
        return
    (price,) = set(buyers.values())
    for side in Side:
        at_price = [order for order in orders if order.side is side and limit_of(order, free) == price]
        short = False
        for order in at_price:
            assert not (short and got[order.order_id])
            short = short or got[order.order_id] < order.quantity_wh
