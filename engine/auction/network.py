"""The call auction of several zones at once: one price for buyers and one for sellers in each, energy between them.

The prices are those of engine/auction/prices.py. What they leave open is decided by priority: whole volume first, then
orders at their zone's price by priority over all zones, bids before asks. The grid gets what buyers pay beyond what
sellers receive: wheeling, loss on the seller's clearing price, less than a tick of rounding, and what a full lane is
worth. Source: docs/auctions.md, docs/decisions/0033.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from msgspec import Struct

from engine.auction.orders import BY_PRIORITY, NO_LEVEL, AuctionOrder, Cut, Fill, Rules
from engine.auction.pairing import Pair, pair
from engine.auction.prices import Curve, Lane, Situation, clearing_prices
from engine.auction.routing import Routing
from engine.messages import OrderId, Side
from engine.units import EnergyWh, PriceMicro

_BUY, _SELL = Side.BUY, Side.SELL
_Run = tuple[int, EnergyWh]  # of orders at their zone's price that follow one another: zone and energy


class ZonePrices(Struct, frozen=True, kw_only=True):
    """One zone's outcome. Cuts are by limit price, not by level.

    The prices are also there when nothing traded: then no bid is above the one, no ask below the other. They are 0 for
    buyers where there are no bids, and a tick above the corridor for sellers where there are no asks.

    bought_wh, sold_wh: accepted, with what was then left out because somebody would have traded with himself.
    """

    zone: str
    buyer_price_micro: PriceMicro
    seller_price_micro: PriceMicro
    bought_wh: EnergyWh
    sold_wh: EnergyWh
    bid_cut: Cut
    ask_cut: Cut


class Flow(Struct, frozen=True, array_like=True):
    """Energy accepted from one zone to another; only flows above zero are listed."""

    zone_from: str
    zone_to: str
    energy_wh: EnergyWh


class Charge(Struct, frozen=True, array_like=True):
    """Wheeling and loss per kWh of a lane, fixed for this auction."""

    zone_from: str
    zone_to: str
    charge_micro: PriceMicro


class NetworkResult(Struct, frozen=True, kw_only=True):
    """All zones together. fills: by priority, without `left_out`, which is what somebody would have sold to himself.

    fixed_charges: of all lanes when no prices were found with which loss follows the clearing price; mostly empty.
    """

    zones: tuple[ZonePrices, ...]
    flows: tuple[Flow, ...]
    fills: tuple[Fill, ...]
    left_out: tuple[Fill, ...]
    pairs: tuple[Pair, ...]
    fixed_charges: tuple[Charge, ...] = ()


def clear_network(orders: Iterable[AuctionOrder], zones: Sequence[str], rules: Rules) -> NetworkResult:
    """Clear these zones together; the orders come in any order. A pair of zones without a path does not trade."""
    book = _Book(orders, zones, rules)
    prices, situation = clearing_prices(book.bids, book.asks, book.lanes, rules.tick_micro)
    buyer_prices = [price * rules.tick_micro for price in prices]
    seller_prices = [
        price * rules.tick_micro if curve.prices else rules.price_micro_max + rules.tick_micro
        for curve, price in zip(book.asks, situation.seller_prices, strict=True)
    ]
    routing = _routed(situation, list(book.runs(_BUY, buyer_prices)), list(book.runs(_SELL, seller_prices)))
    flows = situation.must_wh | {lane: energy_wh for lane, energy_wh in routing.carried_wh.items() if energy_wh}
    bought, sold = [0] * len(zones), [0] * len(zones)
    for (sold_at, bought_at), energy_wh in flows.items():
        sold[sold_at] += energy_wh
        bought[bought_at] += energy_wh
    fills, bid_cuts, ask_cuts = book.fills(buyer_prices, seller_prices, bought, sold)
    pairs, left_out = _paired(fills, len(zones), flows, book.zone_of)
    off = {fill.order_id: fill.energy_wh for fill in left_out}
    return NetworkResult(
        zones=tuple(
            ZonePrices(
                zone=zone,
                buyer_price_micro=buyer_prices[number],
                seller_price_micro=seller_prices[number],
                bought_wh=bought[number],
                sold_wh=sold[number],
                bid_cut=bid_cuts[number],
                ask_cut=ask_cuts[number],
            )
            for number, zone in enumerate(book.zones)
        ),
        flows=tuple(Flow(book.zones[a], book.zones[b], energy_wh) for (a, b), energy_wh in sorted(flows.items())),
        fills=tuple(_less(fills, off)) if off else tuple(fills),
        left_out=tuple(left_out),
        pairs=tuple(pairs),
        fixed_charges=tuple(
            Charge(lane.path.zone_from, lane.path.zone_to, lane.charge_micro)
            for lane in book.lanes
            if lane.charge_micro is not None
        ),
    )


class _Book:
    """The orders by priority with the curves of each zone; zones are numbered by name."""

    def __init__(self, orders: Iterable[AuctionOrder], zones: Sequence[str], rules: Rules) -> None:
        self.orders = sorted(orders, key=BY_PRIORITY)
        self.zones = sorted(zones)
        self.numbers = {zone: number for number, zone in enumerate(self.zones)}
        self.zone_of: dict[OrderId, int] = {}
        energy: list[list[dict[PriceMicro, EnergyWh]]] = [[defaultdict(int) for _ in zones] for _ in Side]
        for order in self.orders:
            zone = self.zone_of[order.order_id] = self.numbers[order.zone]
            energy[order.side][zone][order.price_micro] += order.quantity_wh
        self._limits = [{price: rules.limit(side, price) for one in energy[side] for price in one} for side in Side]
        self.bids, self.asks = ([self._curve(side, one) for one in energy[side]] for side in Side)
        self.lanes = [
            Lane(path, self.numbers[path.zone_from], self.numbers[path.zone_to], rules.lot_wh)
            for path in sorted(rules.paths, key=lambda path: (path.zone_from, path.zone_to))
            if path.zone_from in self.numbers and path.zone_to in self.numbers
        ]

    def _curve(self, side: Side, energy_at: dict[PriceMicro, EnergyWh]) -> Curve:
        """By limit instead of price, without what can never trade."""
        limited: defaultdict[PriceMicro, EnergyWh] = defaultdict(int)
        for price, energy_wh in energy_at.items():
            limited[self._limits[side][price]] += energy_wh
        limited.pop(NO_LEVEL, None)
        return Curve(limited)

    def runs(self, side: Side, prices: Sequence[PriceMicro]) -> Iterator[_Run]:
        """Orders at exactly their zone's price, by priority, neighbours of one zone taken together."""
        limits = self._limits[side]
        found = (
            (self.zone_of[order.order_id], order.quantity_wh)
            for order in self.orders
            if order.side is side and limits[order.price_micro] == prices[self.zone_of[order.order_id]]
        )
        for zone, run in groupby(found, key=lambda one: one[0]):
            yield zone, sum(energy_wh for _, energy_wh in run)

    def fills(
        self, buyer_prices: list[PriceMicro], seller_prices: list[PriceMicro], bought: list[int], sold: list[int]
    ) -> tuple[list[Fill], list[Cut], list[Cut]]:
        """Better orders whole, those at the price by priority, up to what each zone buys and sells."""
        prices = (buyer_prices, seller_prices)
        left = (
            [
                energy - curve.from_(price + 1)
                for energy, curve, price in zip(bought, self.bids, buyer_prices, strict=True)
            ],
            [energy - curve.below(price) for energy, curve, price in zip(sold, self.asks, seller_prices, strict=True)],
        )
        cuts = [[Cut() for _ in self.zones] for _ in Side]
        fills = []
        for order in self.orders:
            side, zone, energy_wh = order.side, self.zone_of[order.order_id], order.quantity_wh
            limit, price = self._limits[side][order.price_micro], prices[side][zone]
            if limit == price:
                energy_wh = min(energy_wh, left[side][zone])
                left[side][zone] -= energy_wh
            elif limit == NO_LEVEL or (limit > price if side is _SELL else limit < price):
                continue
            if energy_wh:
                fills.append(Fill(order.order_id, order.participant_id, side, energy_wh))
                worst = cuts[side][zone]
                if not worst.energy_wh or (limit >= worst.level_micro if side is _SELL else limit <= worst.level_micro):
                    cuts[side][zone] = Cut(limit, order.priority, energy_wh)
        return fills, cuts[_BUY], cuts[_SELL]


def _routed(situation: Situation, bid_runs: list[_Run], ask_runs: list[_Run]) -> Routing:
    """The flow through open lanes: everything that must, as much volume as may, and by priority where it may.

    Bids first, then asks: the best for bids and the best for asks go together, as in any flow (Mendelsohn, Dulmage).
    """
    routing, zones = situation.routing(), len(situation.bid)
    must_buy, may_buy = (
        [one[end] - come for one, come in zip(situation.bid, situation.bought_must, strict=True)] for end in (0, 1)
    )
    must_sell, may_sell = ([one[end] for one in situation.asked] for end in (0, 1))
    start = dict(enumerate(must_sell))
    routing.push(start, {zones + zone: may for zone, may in enumerate(may_buy)})
    assert not any(start.values()), start
    goal = {zones + zone: must - routing.bought_wh[zone] for zone, must in enumerate(must_buy)}
    routing.push(_sellable(routing, may_sell) | _spare(zones, routing.bought_wh, must_buy), goal)
    assert all(energy_wh <= 0 for energy_wh in goal.values()), goal
    fixed = [max(0, must) for must in must_buy]
    for zone, energy_wh in bid_runs:
        wanted = min(fixed[zone] + energy_wh, may_buy[zone]) - routing.bought_wh[zone]
        if wanted > 0:
            others = _spare(zones, routing.bought_wh, fixed)
            others.pop(zones + zone)
            routing.push(_sellable(routing, may_sell) | others, {zones + zone: wanted})
        fixed[zone] = min(fixed[zone] + energy_wh, routing.bought_wh[zone])
    fixed = must_sell
    for zone, energy_wh in ask_runs:
        wanted = min(fixed[zone] + energy_wh, may_sell[zone]) - routing.sold_wh[zone]
        if wanted > 0:
            others = _spare(0, routing.sold_wh, fixed)
            others.pop(zone)
            routing.push({zone: wanted}, others)
        fixed[zone] = min(fixed[zone] + energy_wh, routing.sold_wh[zone])
    return routing


def _sellable(routing: Routing, may_sell: list[EnergyWh]) -> dict[int, EnergyWh]:
    return {zone: may - sold for zone, (may, sold) in enumerate(zip(may_sell, routing.sold_wh, strict=True))}


def _spare(first_node: int, now: list[EnergyWh], fixed: list[EnergyWh]) -> dict[int, EnergyWh]:
    """What each node has beyond what is promised to it."""
    return {first_node + zone: have - keep for zone, (have, keep) in enumerate(zip(now, fixed, strict=True))}


# --- who trades with whom -----------------------------------------------------------------------------------------


def _paired(
    fills: list[Fill], zones: int, flows: dict[tuple[int, int], EnergyWh], zone_of: dict[OrderId, int]
) -> tuple[list[Pair], list[Fill]]:
    """Pairs lane by lane, and by order what nobody but its own participant could have taken."""
    pairs, off = list[Pair](), dict[OrderId, Fill]()
    waiting: tuple[list[list[Fill]], ...] = tuple([[] for _ in range(zones)] for _ in Side)
    for fill in reversed(fills):
        waiting[fill.side][zone_of[fill.order_id]].append(fill)
    for (sold_at, bought_at), energy_wh in sorted(flows.items()):
        lane = [*_taken(waiting[_BUY][bought_at], energy_wh), *_taken(waiting[_SELL][sold_at], energy_wh)]
        good, own = pair(lane)
        pairs += good
        for one in own:
            for fill in (one.bid, one.ask):
                before = off[fill.order_id].energy_wh if fill.order_id in off else 0
                off[fill.order_id] = Fill(fill.order_id, fill.participant_id, fill.side, before + one.energy_wh)
    return pairs, sorted(off.values(), key=lambda fill: fill.order_id)


def _taken(waiting: list[Fill], energy_wh: EnergyWh) -> Iterator[Fill]:
    """The next fills, earliest first, until they come to this much."""
    while energy_wh:
        fill = waiting.pop()
        if fill.energy_wh > energy_wh:
            rest = fill.energy_wh - energy_wh
            waiting.append(Fill(fill.order_id, fill.participant_id, fill.side, rest))
            fill = Fill(fill.order_id, fill.participant_id, fill.side, energy_wh)
        energy_wh -= fill.energy_wh
        yield fill


def _less(fills: Iterable[Fill], off: dict[OrderId, EnergyWh]) -> Iterator[Fill]:
    for fill in fills:
        energy_wh = fill.energy_wh - off.get(fill.order_id, 0)
        if energy_wh:
            yield Fill(fill.order_id, fill.participant_id, fill.side, energy_wh)
