"""The auction that ends an epoch of a market: one result for all zones, the trades that it means, what they are worth.

A market of one zone clears by the midpoint rule of uniform.py, one of several zones by the equilibrium of network.py.
All of it is a pure function of the orders and the rules, so whoever has both finds the same. Source: docs/auctions.md.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from engine.auction.certificate import Published, accepted_wh, publish
from engine.auction.network import clear_network
from engine.auction.orders import AuctionOrder, Cut, Rules
from engine.auction.pairing import Pair, pair
from engine.auction.uniform import clear_zone
from engine.market import landed
from engine.messages import EpochCleared, OrderId, Side, ZonePrice
from engine.units import EnergyWh, MoneyMicro, PriceMicro, TimeUs, value_micro

_Lane = tuple[str, str]  # seller's zone, buyer's zone


class Outcome(Struct, frozen=True):
    """What an auction comes to. trades: (bid's id, ask's id, energy) in the order in which they are booked.

    trading: ids of all orders in them. prices: by zone, what buyers pay and what sellers receive per kWh. left_out:
    energy by order that was accepted and that its participant would have traded with himself.
    """

    published: Published
    trades: list[tuple[OrderId, OrderId, EnergyWh]]
    trading: frozenset[OrderId]
    prices: dict[str, tuple[PriceMicro, PriceMicro]]
    left_out: dict[OrderId, EnergyWh]
    cleared: EpochCleared


def clear(orders: Iterable[AuctionOrder], zones: Sequence[str], rules: Rules) -> Published:
    """The result of these orders, given in any order, with all that it takes to check it."""
    ordered = list(orders)
    if len(zones) == 1:
        return publish(ordered, rules, clear_zone(ordered, zones[0], rules))
    return publish(ordered, rules, clear_network(ordered, zones, rules))


def outcome_of(published: Published, start_us: TimeUs) -> Outcome:
    """What this result means for the epoch that began at `start_us`. O(n)."""
    pairs, prices, left_out = _pairs(published), _prices(published), _left_out(published)
    return Outcome(
        published=published,
        trades=[(one.bid.order_id, one.ask.order_id, one.energy_wh) for one in pairs],
        trading=frozenset(fill.order_id for one in pairs for fill in (one.bid, one.ask)),
        prices=prices,
        left_out=left_out,
        cleared=_cleared(published, pairs, prices, left_out, start_us),
    )


def _cleared(
    published: Published,
    pairs: Sequence[Pair],
    prices: dict[str, tuple[PriceMicro, PriceMicro]],
    left_out: dict[OrderId, EnergyWh],
    start_us: TimeUs,
) -> EpochCleared:
    orders = {order.order_id: order for order in published.orders}
    if not pairs and not left_out:
        return EpochCleared(start_us, orders=len(orders), orders_hash=published.orders_hash)
    bought, sold, flows = Counter[str](), Counter[str](), Counter[_Lane]()
    worth = Counter[Side]()  # of what trades, at the limits of its orders
    for one in pairs:
        bid, ask = orders[one.bid.order_id], orders[one.ask.order_id]
        bought[bid.zone] += one.energy_wh
        sold[ask.zone] += one.energy_wh
        flows[ask.zone, bid.zone] += one.energy_wh
        worth[Side.BUY] += value_micro(bid.price_micro, one.energy_wh)
        worth[Side.SELL] += value_micro(ask.price_micro, one.energy_wh)
    welfare = worth[Side.BUY] - worth[Side.SELL] - _charges_micro(published, flows, prices)
    missed = 0
    if left_out:
        for order_id, energy_wh in left_out.items():
            value = value_micro(orders[order_id].price_micro, energy_wh)
            missed += value if orders[order_id].side is Side.BUY else -value
        missed -= _charges_micro(published, _accepted_flows(published) - flows, prices)
    return EpochCleared(
        start_us=start_us,
        zones=tuple(
            ZonePrice(
                zone,
                buyers if bought[zone] else 0,
                sellers if sold[zone] else 0,
                bought[zone],
                sold[zone],
                bid_cut.priority,
                ask_cut.priority,
            )
            for zone, bid_cut, ask_cut in _cuts(published)
            for buyers, sellers in (prices[zone],)
        ),
        volume_wh=sum(bought.values()),
        surplus_wh=_surplus_wh(published, prices),
        value_micro=sum(value_micro(prices[zone][1], energy_wh) for zone, energy_wh in sold.items()),
        orders=len(orders),
        trades=len(pairs),
        welfare_micro=welfare,
        welfare_max_micro=welfare + missed,
        orders_hash=published.orders_hash,
    )


def _pairs(published: Published) -> Sequence[Pair]:
    if published.network is not None:
        return published.network.pairs
    assert published.zone is not None
    pairs, own = pair(published.zone.fills)
    assert not own, own
    return pairs


def _prices(published: Published) -> dict[str, tuple[PriceMicro, PriceMicro]]:
    if published.network is not None:
        return {one.zone: (one.buyer_price_micro, one.seller_price_micro) for one in published.network.zones}
    assert published.zone is not None
    return {published.zone.zone: (published.zone.buyer_price_micro, published.zone.price_micro)}


def _cuts(published: Published) -> list[tuple[str, Cut, Cut]]:
    if published.network is not None:
        return [(one.zone, one.bid_cut, one.ask_cut) for one in published.network.zones]
    assert published.zone is not None
    return [(published.zone.zone, published.zone.bid_cut, published.zone.ask_cut)]


def _left_out(published: Published) -> dict[OrderId, EnergyWh]:
    if published.network is not None:
        return {fill.order_id: fill.energy_wh for fill in published.network.left_out}
    result, rules = published.zone, published.rules
    assert result is not None
    if result.self_trade is None:
        return {}
    path = rules.path(result.zone, result.zone)
    filled = {fill.order_id: fill.energy_wh for fill in result.fills}
    found = {}
    for order in published.orders:
        if order.participant_id == result.self_trade.participant_id:
            cut = result.ask_cut if order.side is Side.SELL else result.bid_cut
            accepted = accepted_wh(order, rules.level(order.side, order.price_micro, path), cut)
            if accepted > filled.get(order.order_id, 0):
                found[order.order_id] = accepted - filled.get(order.order_id, 0)
    return found


def _accepted_flows(published: Published) -> Counter[_Lane]:
    """Energy on each lane, with what was then left out."""
    if published.network is not None:
        return Counter({(flow.zone_from, flow.zone_to): flow.energy_wh for flow in published.network.flows})
    assert published.zone is not None
    return Counter({(published.zone.zone, published.zone.zone): published.zone.volume_wh})


def _charges_micro(
    published: Published, flows: Counter[_Lane], prices: dict[str, tuple[PriceMicro, PriceMicro]]
) -> MoneyMicro:
    """Wheeling and loss of these flows, at the price of the seller's zone or as they were fixed for this auction."""
    rules, total = published.rules, 0
    fixed = published.network.fixed_charges if published.network is not None else ()
    charge_of = {(one.zone_from, one.zone_to): one.charge_micro for one in fixed}
    for (zone_from, zone_to), energy_wh in flows.items():
        charge = charge_of.get((zone_from, zone_to))
        if charge is None:
            path, price = rules.path(zone_from, zone_to), prices[zone_from][1]
            charge = landed(price, path.wheeling_micro, path.loss_bps, rules.tick_micro) - price
        total += value_micro(charge, energy_wh)
    return total


def _surplus_wh(published: Published, prices: dict[str, tuple[PriceMicro, PriceMicro]]) -> int:
    """Bids less asks that are willing at their zone's price; of one zone as its rule counts them."""
    if published.zone is not None:
        return published.zone.surplus_wh
    rules, surplus = published.rules, 0
    for order in published.orders:
        buyers, sellers = prices[order.zone]
        limit = rules.limit(order.side, order.price_micro)
        if order.side is Side.BUY and limit >= buyers:
            surplus += order.quantity_wh
        elif order.side is Side.SELL and 0 <= limit <= sellers:
            surplus -= order.quantity_wh
    return surplus
