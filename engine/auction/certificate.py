"""What makes an auction's result believable without believing the auctioneer: a certificate, checked in one pass.

A certificate of one zone names the price, the prices around it at which the choice tips, and the last order on each
side. Whoever has the list of orders adds up, in one pass, what is willing at these prices and what stands before the
last orders; sums and neighbours then prove that no other price would have been chosen, and whose every fill is.
One of several zones names prices and flows; every order and every lane must be content with them (complementary
slackness). Source: docs/auctions.md, which has the proofs.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from engine.auction.network import Charge, Flow, NetworkResult, ZonePrices
from engine.auction.orders import BY_PRIORITY, NO_LEVEL, AuctionOrder, Cut, Fill, Rules, order_problems, rule_problems
from engine.auction.uniform import ZoneResult, exceeding
from engine.market import UNLIMITED_WH, Path, landed
from engine.messages import OrderId, ParticipantId, Side
from engine.units import EnergyWh, PriceMicro, floor_to_tick

FORMAT: Final = "wattbook-auction-1"
ORDERS_MAX: Final = 2_000_000  # that a published file may hold


class Published(Struct, frozen=True, kw_only=True):
    """All that is published of an auction: what went in, by priority, and what came out.

    Exactly one of `zone` and `network` is there; their fills are published as they are. orders_hash: hex.
    """

    format: str
    rules: Rules
    orders: tuple[AuctionOrder, ...]
    orders_hash: str
    zone: ZoneResult | None = None
    network: NetworkResult | None = None


def publish(orders: Sequence[AuctionOrder], rules: Rules, result: ZoneResult | NetworkResult) -> Published:
    """The result with the orders that it came from."""
    ordered = tuple(sorted(orders, key=BY_PRIORITY))
    return Published(
        format=FORMAT,
        rules=rules,
        orders=ordered,
        orders_hash=orders_hash(ordered),
        zone=result if isinstance(result, ZoneResult) else None,
        network=result if isinstance(result, NetworkResult) else None,
    )


def orders_hash(ordered: Sequence[AuctionOrder]) -> str:
    """SHA-256 in hex of the orders as one msgpack array, by priority: the same list has the same hash anywhere."""
    return sha256(msgspec.msgpack.encode(ordered)).hexdigest()


def problems(published: Published) -> Iterator[str]:
    """Everything by which this cannot be the result of these orders; nothing if it is. O(n) for n orders.

    A later problem is only looked for when those before it do not forbid it.
    """
    if published.format != FORMAT:
        yield f"format: {published.format!r} is not {FORMAT!r}"
        return
    if (published.zone is None) == (published.network is None):
        yield "a file holds the result of one zone or of a network, and only one of them"
        return
    if len(published.orders) > ORDERS_MAX:
        yield f"orders: more than {ORDERS_MAX}"
        return
    found = list(rule_problems(published.rules))
    if not found:
        zones = [published.zone.zone] if published.zone else [one.zone for one in _network(published).zones]
        found = list(order_problems(published.orders, published.rules, zones))
    if not found and orders_hash(published.orders) != published.orders_hash:
        found = ["orders_hash: is not the hash of these orders"]
    yield from found
    if found:
        return
    try:
        if published.zone is not None:
            yield from zone_problems(published.zone, published.orders, published.rules)
        else:
            yield from network_problems(_network(published), published.orders, published.rules)
    except KeyError as error:
        yield f"rules: {error.args[0]}"


def _network(published: Published) -> NetworkResult:
    assert published.network is not None
    return published.network


# --- one zone -----------------------------------------------------------------------------------------------------


class _Sums:
    """Demand and supply at a few prices, filled in one pass; prices are levels."""

    def __init__(self, prices: Sequence[PriceMicro]) -> None:
        self._prices = sorted(set(prices))
        self._bids = [0] * (len(self._prices) + 1)
        self._asks = [0] * (len(self._prices) + 1)

    def add(self, side: Side, level: PriceMicro, energy_wh: EnergyWh) -> None:
        if side is Side.SELL:
            self._asks[bisect_left(self._prices, level)] += energy_wh
        else:
            self._bids[bisect_left(self._prices, level + 1)] += energy_wh

    def at(self, price: PriceMicro) -> tuple[EnergyWh, int]:
        """Volume and surplus, bids less asks, at one of the prices."""
        place = bisect_left(self._prices, price)
        demand, supply = sum(self._bids[place + 1 :]), sum(self._asks[: place + 1])
        return min(demand, supply), demand - supply


def zone_problems(result: ZoneResult, orders: Sequence[AuctionOrder], rules: Rules) -> Iterator[str]:
    """Why this is not the clearing of these orders, which are well-formed and by priority.

    One pass. It suffices to look at the ends of the range of prices and one tick beyond: bids less asks only fall as
    the price rises, so volume has one hill and the surplus one valley on it; inside the range both are constant
    because on either side of the turn either bids or asks do not change.
    """
    path, tick = rules.path(result.zone, result.zone), rules.tick_micro
    low, high, turn, price = result.low_micro, result.high_micro, result.turn_micro, result.price_micro
    ends = (low - tick, low, turn - tick, turn, high, high + tick, price)
    sums, levels = _Sums(ends), dict[tuple[Side, PriceMicro], PriceMicro]()
    best_bid, best_ask = NO_LEVEL, rules.price_micro_max + 1
    expected, accepted, sides = list[Fill](), list[Fill](), [0, 0]
    left_out, ends_seen = [0, 0], set[Side]()
    for order in orders:
        key = (order.side, order.price_micro)
        if key not in levels:
            levels[key] = rules.level(*key, path)
        level = levels[key]
        if level == NO_LEVEL:
            continue
        sums.add(order.side, level, order.quantity_wh)
        if order.side is Side.BUY:
            best_bid = max(best_bid, level)
        else:
            best_ask = min(best_ask, level)
        cut = result.ask_cut if order.side is Side.SELL else result.bid_cut
        energy_wh = accepted_wh(order, level, cut)
        if _is_last(order, level, cut):
            ends_seen.add(order.side)
        sides[order.side] += energy_wh
        if not energy_wh:
            continue
        fill = Fill(order.order_id, order.participant_id, order.side, energy_wh)
        accepted.append(fill)
        if result.self_trade is not None and order.participant_id == result.self_trade.participant_id:
            own = result.self_trade.ask_cut if order.side is Side.SELL else result.self_trade.bid_cut
            kept = min(energy_wh, accepted_wh(order, level, own))
            left_out[order.side] += energy_wh - kept
            fill = replace(fill, energy_wh=kept)
        if fill.energy_wh:
            expected.append(fill)
    if best_bid < best_ask:
        if result != ZoneResult(zone=result.zone):
            yield "no bid meets an ask, so nothing trades and there is no price"
        return
    if price == 0:
        yield "bids meet asks, but the result has no price"
        return
    if any(one % tick for one in (low, high, turn, price)) or not low <= price <= high:
        yield "price: is not on the tick between low and high"
        return
    yield from _price_problems(result, sums, rules)
    if sides != [result.volume_wh, result.volume_wh]:
        yield f"cuts: they accept {sides[0]} Wh of bids and {sides[1]} Wh of asks, not {result.volume_wh} each"
    if len(ends_seen) < 2:
        yield "cuts: one of them is no order's"
    if tuple(expected) != result.fills:
        yield f"fills: {_first_difference(expected, result.fills)}"
    claimed = result.self_trade
    if exceeding(accepted, result.volume_wh) != ((claimed.participant_id, claimed.energy_wh) if claimed else None):
        yield "self_trade: who must be left out, or how much, is wrong"
    if claimed is not None and left_out != [claimed.energy_wh, claimed.energy_wh]:
        yield "self_trade: not that much is left out of the participant's bids and asks"
    if result.buyer_price_micro != landed(price, path.wheeling_micro, path.loss_bps, tick):
        yield "buyer_price: is not the landed price"


def _price_problems(result: ZoneResult, sums: _Sums, rules: Rules) -> Iterator[str]:
    tick, low, high, turn = rules.tick_micro, result.low_micro, result.high_micro, result.turn_micro
    volume, surplus = sums.at(result.price_micro)
    if (volume, surplus) != (result.volume_wh, result.surplus_wh):
        yield f"at this price the volume is {volume} Wh and the surplus {surplus} Wh"
        return
    if not low <= turn <= high + tick:
        yield "turn: is not between low and high"
        return

    def rank(price: PriceMicro) -> tuple[EnergyWh, int]:
        volume, surplus = sums.at(price)
        return volume, -abs(surplus)

    here = rank(result.price_micro)
    inside = {low, high, *(price for price in (turn - tick, turn) if low <= price <= high)}
    if any(rank(price) != here for price in inside):
        yield "low, high: not all prices between them are as good as this one"
    if any(rank(price) >= here for price in (low - tick, high + tick)):
        yield "low, high: a price beyond them is as good as this one, or better"
    if turn > low and sums.at(turn - tick)[1] <= 0:
        yield "turn: bids do not exceed asks before it"
    if turn <= high and sums.at(turn)[1] > 0:
        yield "turn: bids still exceed asks there"
    middle = floor_to_tick((result.bid_cut.level_micro + result.ask_cut.level_micro) // 2, tick)
    if result.price_micro != min(max(middle, low), high):
        yield "price: is not the one nearest to the midpoint of the marginal bid and ask"


def accepted_wh(order: AuctionOrder, level: PriceMicro, cut: Cut) -> EnergyWh:
    """What the order gets when its side ends at this cut."""
    if cut.energy_wh <= 0:
        return 0
    ahead = level < cut.level_micro if order.side is Side.SELL else level > cut.level_micro
    if ahead or (level == cut.level_micro and order.priority < cut.priority):
        return order.quantity_wh
    return cut.energy_wh if _is_last(order, level, cut) else 0


def _is_last(order: AuctionOrder, level: PriceMicro, cut: Cut) -> bool:
    return (level, order.priority) == (cut.level_micro, cut.priority) and 0 < cut.energy_wh <= order.quantity_wh


def _first_difference(expected: Sequence[Fill], published: Sequence[Fill]) -> str:
    want = {fill.order_id: fill for fill in expected}
    for fill in published:
        if want.pop(fill.order_id, None) != fill:
            return f"order {fill.order_id} does not get {fill.energy_wh} Wh"
    return f"order {min(want)} is missing" if want else "they are not in order of priority"


# --- several zones ------------------------------------------------------------------------------------------------


def network_problems(result: NetworkResult, orders: Sequence[AuctionOrder], rules: Rules) -> Iterator[str]:
    """Why this is no clearing of these zones: a pass over the orders, then one over the lanes and the fills."""
    zones = {one.zone: one for one in result.zones}
    flows = {(one.zone_from, one.zone_to): one for one in result.flows}
    if len(zones) != len(result.zones) or len(flows) != len(result.flows):
        yield "zones, flows: each may appear once"
        return
    tick = rules.tick_micro
    if any(one.buyer_price_micro % tick or one.seller_price_micro % tick for one in result.zones):
        yield "zones: a price is not on the tick"
        return
    yield from _lane_problems(zones, flows, {(one.zone_from, one.zone_to): one for one in result.fixed_charges}, rules)
    accepted, expected, ends_seen = Counter[tuple[str, Side]](), dict[OrderId, Fill](), 0
    for order in orders:
        zone, limit = zones[order.zone], rules.limit(order.side, order.price_micro)
        price, cut = (
            (zone.buyer_price_micro, zone.bid_cut)
            if order.side is Side.BUY
            else (zone.seller_price_micro, zone.ask_cut)
        )
        energy_wh = 0 if limit == NO_LEVEL else accepted_wh(order, limit, cut)
        gain = limit - price if order.side is Side.BUY else price - limit
        if energy_wh and gain < 0:
            yield f"order {order.order_id}: trades outside its limit"
        if limit != NO_LEVEL and gain > 0 and energy_wh != order.quantity_wh:
            yield f"order {order.order_id}: is better than its zone's price and not filled"
        accepted[order.zone, order.side] += energy_wh
        ends_seen += _is_last(order, limit, cut)
        if energy_wh:
            expected[order.order_id] = Fill(order.order_id, order.participant_id, order.side, energy_wh)
    if ends_seen != sum(one.energy_wh > 0 for zone in result.zones for one in (zone.bid_cut, zone.ask_cut)):
        yield "cuts: one of them is no order's"
    bought, sold = Counter[str](), Counter[str]()
    for flow in result.flows:
        sold[flow.zone_from] += flow.energy_wh
        bought[flow.zone_to] += flow.energy_wh
    for zone in result.zones:
        if not zone.bought_wh == bought[zone.zone] == accepted[zone.zone, Side.BUY]:
            yield f"zone {zone.zone}: what is bought, flows in and is accepted differ"
        if not zone.sold_wh == sold[zone.zone] == accepted[zone.zone, Side.SELL]:
            yield f"zone {zone.zone}: what is sold, flows out and is accepted differ"
    yield from _fill_problems(result, expected)


def _lane_problems(
    zones: dict[str, ZonePrices],
    flows: dict[tuple[str, str], Flow],
    fixed: dict[tuple[str, str], Charge],
    rules: Rules,
) -> Iterator[str]:
    """Energy flows only where the price difference pays for the lane, and fills it where it pays for more."""
    left = set(flows)
    for path in rules.paths:
        pair = (path.zone_from, path.zone_to)
        flow = flows[pair].energy_wh if pair in flows else 0
        left.discard(pair)
        if path.zone_from not in zones or path.zone_to not in zones:
            continue
        limited = path.zone_from != path.zone_to and path.capacity_wh != UNLIMITED_WH
        capacity = path.capacity_wh // rules.lot_wh * rules.lot_wh
        if flow < 0 or flow % rules.lot_wh or (limited and flow > capacity):
            yield f"lane {pair[0]} to {pair[1]}: carries {flow} Wh, which it cannot"
        if pair in fixed and not path.wheeling_micro <= fixed[pair].charge_micro <= _highest_charge(path, rules):
            yield f"lane {pair[0]} to {pair[1]}: no price in the corridor has that charge"
        seller, buyer = zones[path.zone_from].seller_price_micro, zones[path.zone_to].buyer_price_micro
        least, more = (
            price + fixed[pair].charge_micro
            if pair in fixed
            else landed(price, path.wheeling_micro, path.loss_bps, rules.tick_micro)
            for price in (seller, seller + rules.tick_micro)
        )
        if flow > 0 and buyer < least:
            yield f"lane {pair[0]} to {pair[1]}: energy flows against a price difference below its cost"
        if buyer >= more and not (limited and flow == capacity):
            yield f"lane {pair[0]} to {pair[1]}: the price difference pays for more than flows"
    yield from (f"lane {a} to {b}: has no costs, so nothing may flow" for a, b in sorted(left))


def _highest_charge(path: Path, rules: Rules) -> PriceMicro:
    """Wheeling and loss per kWh at the corridor's end."""
    top = rules.price_micro_max
    return landed(top, path.wheeling_micro, path.loss_bps, rules.tick_micro) - top


def _fill_problems(result: NetworkResult, expected: dict[OrderId, Fill]) -> Iterator[str]:
    """Fills and what was left out come to what the cuts accept; what was left out is as much bought as sold by each."""
    got, balance = Counter[OrderId](), defaultdict[ParticipantId, int](int)
    for fill in (*result.fills, *result.left_out):
        want = expected.get(fill.order_id)
        if fill.energy_wh <= 0 or want is None or (fill.participant_id, fill.side) != (want.participant_id, want.side):
            yield f"fills: order {fill.order_id} gets nothing of the kind"
            return
        got[fill.order_id] += fill.energy_wh
    for fill in result.left_out:
        balance[fill.participant_id] += fill.energy_wh if fill.side is Side.BUY else -fill.energy_wh
    wrong = [one for one, fill in expected.items() if got[one] != fill.energy_wh]
    if wrong:
        yield f"fills: order {wrong[0]} does not get {got[wrong[0]]} Wh"
    if any(balance.values()):
        yield "left_out: not as much bought as sold"
    booked = Counter[OrderId]()
    for pair in result.pairs:
        if pair.energy_wh <= 0 or pair.is_self_trade:
            yield f"pairs: orders {pair.bid.order_id} and {pair.ask.order_id} do not trade"
            return
        booked[pair.bid.order_id] += pair.energy_wh
        booked[pair.ask.order_id] += pair.energy_wh
    if booked != Counter({fill.order_id: fill.energy_wh for fill in result.fills}):
        yield "pairs: they do not come to the fills"
