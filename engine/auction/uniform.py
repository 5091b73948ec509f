"""The call auction of one zone: all orders collected, one price, everybody inside his limit.

The price: largest volume; among those the smallest surplus; among those the one nearest to the midpoint of the
marginal accepted bid and ask, rounded down to the tick. Prices here are levels (engine/auction/orders.py): sellers
receive the price, buyers pay its landed price, the grid gets the difference. Fees come on top and move nothing.

A participant who would have to trade with himself is left out with just that energy; nobody else's price or fill
changes by it (docs/decisions/0034).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from msgspec import Struct

from engine.auction.orders import BY_PRIORITY, NO_LEVEL, AuctionOrder, Cut, Fill, Rules
from engine.market import Path, landed
from engine.messages import ParticipantId, Side
from engine.units import EnergyWh, PriceMicro, floor_to_tick

_BUY, _SELL = Side.BUY, Side.SELL


class SelfTrade(Struct, frozen=True, kw_only=True):
    """Who stood on both sides with more than all others together, and what was left out of his accepted orders.

    energy_wh on each side, from his last accepted ones backwards; the cuts say where his own orders now end.
    """

    participant_id: ParticipantId
    energy_wh: EnergyWh
    bid_cut: Cut
    ask_cut: Cut


class ZoneResult(Struct, frozen=True, kw_only=True):
    """One clearing. All zero, with no fills, when no bid met an ask: then there is no price.

    price_micro: what sellers receive; buyer_price_micro: its landed price. volume_wh: accepted on each side, with what
    `self_trade` then left out. surplus_wh: bids less asks that are willing at this price. low, high: the prices among
    which volume and surplus do not choose; turn: the first of them at which bids do not exceed asks, or high + tick.
    fills: by priority.
    """

    zone: str
    price_micro: PriceMicro = 0
    buyer_price_micro: PriceMicro = 0
    volume_wh: EnergyWh = 0
    surplus_wh: int = 0
    low_micro: PriceMicro = 0
    high_micro: PriceMicro = 0
    turn_micro: PriceMicro = 0
    bid_cut: Cut = Cut()
    ask_cut: Cut = Cut()
    self_trade: SelfTrade | None = None
    fills: tuple[Fill, ...] = ()

    @property
    def traded_wh(self) -> EnergyWh:
        return self.volume_wh - (self.self_trade.energy_wh if self.self_trade else 0)


def clear_zone(orders: Iterable[AuctionOrder], zone: str, rules: Rules) -> ZoneResult:
    """Clear the orders of one zone, given in any order. O(n log n), and O(n) when they come by priority.

    Raises KeyError when the zone has no costs of trading within itself.
    """
    path = rules.path(zone, zone)
    ordered = sorted(orders, key=BY_PRIORITY)
    bid_levels, ask_levels = _levels(ordered, rules, path)
    demand, supply = _curve(bid_levels), _curve(ask_levels)
    volume, bid, ask = crossing(demand, supply)
    if volume == 0:
        return ZoneResult(zone=zone)
    low, high, turn = _indifferent(demand, supply, bid, ask, rules.tick_micro)
    price = min(max(floor_to_tick((bid + ask) // 2, rules.tick_micro), low), high)
    fills, bid_cut, ask_cut = _fills(ordered, (bid_levels, ask_levels), demand, supply, volume, bid, ask)
    found, self_trade = exceeding(fills, volume), None
    if found is not None:
        fills, self_trade = _without_self_trade(fills, found, ordered, rules, path)
    return ZoneResult(
        zone=zone,
        price_micro=price,
        buyer_price_micro=landed(price, path.wheeling_micro, path.loss_bps, rules.tick_micro),
        volume_wh=volume,
        surplus_wh=willing(demand, price, above=True) - willing(supply, price, above=False),
        low_micro=low,
        high_micro=high,
        turn_micro=turn,
        bid_cut=bid_cut,
        ask_cut=ask_cut,
        self_trade=self_trade,
        fills=tuple(fills),
    )


# --- price --------------------------------------------------------------------------------------------------------


class _Levels(Struct):
    """Of one side: the level of each limit price, and the energy at each limit price."""

    of_price: dict[PriceMicro, PriceMicro]
    energy_wh: dict[PriceMicro, EnergyWh]


def _levels(orders: Sequence[AuctionOrder], rules: Rules, path: Path) -> tuple[_Levels, _Levels]:
    bids: defaultdict[PriceMicro, EnergyWh] = defaultdict(int)
    asks: defaultdict[PriceMicro, EnergyWh] = defaultdict(int)
    for order in orders:
        if order.side:  # Side.SELL is 1; this loop and the one of fills are most of an auction's time
            asks[order.price_micro] += order.quantity_wh
        else:
            bids[order.price_micro] += order.quantity_wh
    return (
        _Levels({price: rules.level(_BUY, price, path) for price in bids}, bids),
        _Levels({price: rules.level(_SELL, price, path) for price in asks}, asks),
    )


def _curve(levels: _Levels) -> dict[PriceMicro, EnergyWh]:
    """Energy at each level, without what can never trade."""
    curve: defaultdict[PriceMicro, EnergyWh] = defaultdict(int)
    for price, energy_wh in levels.energy_wh.items():
        if levels.of_price[price] != NO_LEVEL:
            curve[levels.of_price[price]] += energy_wh
    return curve


def crossing(
    demand: dict[PriceMicro, EnergyWh], supply: dict[PriceMicro, EnergyWh]
) -> tuple[EnergyWh, PriceMicro, PriceMicro]:
    """The largest volume, and the levels of the last accepted bid and ask; zeros when nothing crosses.

    The best bids meet the best asks for as long as they meet at all. No price moves more: at any price at or below
    the first rejected ask no more is offered, and at any above it no more is asked for.
    """
    bids, asks = iter(sorted(demand.items(), reverse=True)), iter(sorted(supply.items()))
    volume = last_bid = last_ask = 0
    bid, bid_left = next(bids, (NO_LEVEL, 0))
    ask, ask_left = next(asks, (bid + 1, 0))
    while bid >= ask:
        energy_wh = min(bid_left, ask_left)
        volume, last_bid, last_ask = volume + energy_wh, bid, ask
        bid_left, ask_left = bid_left - energy_wh, ask_left - energy_wh
        if not bid_left:
            bid, bid_left = next(bids, (NO_LEVEL, 0))
        if not ask_left:
            ask, ask_left = next(asks, (last_bid + 1, 0))
    return volume, last_bid, last_ask


def willing(curve: dict[PriceMicro, EnergyWh], price: PriceMicro, *, above: bool) -> EnergyWh:
    """Energy at levels not below the price (bids: above) or not above it (asks)."""
    if above:
        return sum(energy_wh for level, energy_wh in curve.items() if level >= price)
    return sum(energy_wh for level, energy_wh in curve.items() if level <= price)


def _indifferent(
    demand: dict[PriceMicro, EnergyWh], supply: dict[PriceMicro, EnergyWh], bid: PriceMicro, ask: PriceMicro, tick: int
) -> tuple[PriceMicro, PriceMicro, PriceMicro]:
    """The lowest and the highest price of smallest surplus from `ask` to `bid`, where the volume is largest; the turn.

    Bids less asks only fall as the price rises, so the prices of smallest surplus are neighbours.
    """
    falls = {level + tick: energy_wh for level, energy_wh in demand.items() if ask <= level < bid}
    rises = {level: energy_wh for level, energy_wh in supply.items() if ask < level <= bid}
    surplus = willing(demand, ask, above=True) - willing(supply, ask, above=False)
    low = high = ask
    smallest, best_surplus = abs(surplus), [(ask, surplus)]
    for price in sorted(falls.keys() | rises.keys()):
        if abs(surplus) == smallest:
            high = price - tick
        surplus -= falls.get(price, 0) + rises.get(price, 0)
        if abs(surplus) < smallest:
            smallest, low, best_surplus = abs(surplus), price, []
        if abs(surplus) == smallest:
            best_surplus.append((price, surplus))
    if abs(surplus) == smallest:
        high = bid
    turn = next((price for price, left in best_surplus if left <= 0), high + tick)
    return low, high, turn


# --- fills --------------------------------------------------------------------------------------------------------


def _fills(
    ordered: Sequence[AuctionOrder],
    sides: tuple[_Levels, _Levels],
    demand: dict[PriceMicro, EnergyWh],
    supply: dict[PriceMicro, EnergyWh],
    volume: EnergyWh,
    bid: PriceMicro,
    ask: PriceMicro,
) -> tuple[list[Fill], Cut, Cut]:
    """Better levels whole, the marginal one by priority until the volume is reached."""
    bid_levels, ask_levels = sides
    whole_bids = {price for price, level in bid_levels.of_price.items() if level > bid}
    last_bids = {price for price, level in bid_levels.of_price.items() if level == bid}
    whole_asks = {price for price, level in ask_levels.of_price.items() if NO_LEVEL < level < ask}
    last_asks = {price for price, level in ask_levels.of_price.items() if level == ask}
    bid_left = volume - sum(energy_wh for level, energy_wh in demand.items() if level > bid)
    ask_left = volume - sum(energy_wh for level, energy_wh in supply.items() if level < ask)
    bid_cut, ask_cut, fills = Cut(), Cut(), list[Fill]()
    add = fills.append
    for order in ordered:
        price = order.price_micro
        if order.side:
            if price in whole_asks:
                add(Fill(order.order_id, order.participant_id, _SELL, order.quantity_wh))
            elif ask_left and price in last_asks:
                energy_wh = min(order.quantity_wh, ask_left)
                ask_left -= energy_wh
                ask_cut = Cut(ask, order.priority, energy_wh)
                add(Fill(order.order_id, order.participant_id, _SELL, energy_wh))
        elif price in whole_bids:
            add(Fill(order.order_id, order.participant_id, _BUY, order.quantity_wh))
        elif bid_left and price in last_bids:
            energy_wh = min(order.quantity_wh, bid_left)
            bid_left -= energy_wh
            bid_cut = Cut(bid, order.priority, energy_wh)
            add(Fill(order.order_id, order.participant_id, _BUY, energy_wh))
    return fills, bid_cut, ask_cut


def exceeding(accepted: Sequence[Fill], volume: EnergyWh) -> tuple[ParticipantId, EnergyWh] | None:
    """Who cannot be paired with others alone, and for how much; there is never more than one.

    What he buys must come from others, who sell the volume less what he sells: so bought + sold may reach the volume.
    All that is bought and sold is twice the volume, so to exceed it is to have a majority, and whoever has it is left
    when everybody else's energy is set off against it (Boyer, Moore: MJRTY, 1981).
    """
    leader, lead_wh = 0, 0
    for fill in accepted:
        if fill.participant_id == leader:
            lead_wh += fill.energy_wh
        elif lead_wh >= fill.energy_wh:
            lead_wh -= fill.energy_wh
        else:
            leader, lead_wh = fill.participant_id, fill.energy_wh - lead_wh
    excess_wh = sum(fill.energy_wh for fill in accepted if fill.participant_id == leader) - volume
    return (leader, excess_wh) if excess_wh > 0 else None


def _without_self_trade(
    fills: list[Fill], found: tuple[ParticipantId, EnergyWh], ordered: Sequence[AuctionOrder], rules: Rules, path: Path
) -> tuple[list[Fill], SelfTrade]:
    """Take the energy off this participant's accepted orders, worst level and latest first, on both sides."""
    participant_id, energy_wh = found
    own = {order.order_id: order for order in ordered if order.participant_id == participant_id}
    kept = {fill.order_id: fill.energy_wh for fill in fills if fill.participant_id == participant_id}

    def standing(fill: Fill) -> tuple[PriceMicro, int]:
        order = own[fill.order_id]
        level = rules.level(order.side, order.price_micro, path)
        return (-level if order.side is _BUY else level, order.priority)

    cuts = []
    for side in (_BUY, _SELL):
        left, cut = energy_wh, Cut()
        mine = [fill for fill in fills if fill.participant_id == participant_id and fill.side is side]
        for fill in sorted(mine, key=standing, reverse=True):
            off = min(left, fill.energy_wh)
            left -= off
            kept[fill.order_id] -= off
            if kept[fill.order_id]:
                cut = Cut(abs(standing(fill)[0]), own[fill.order_id].priority, kept[fill.order_id])
                break
        cuts.append(cut)
    left_in = [
        fill
        if fill.participant_id != participant_id
        else Fill(fill.order_id, fill.participant_id, fill.side, kept[fill.order_id])
        for fill in fills
        if kept.get(fill.order_id, 1)
    ]
    return left_in, SelfTrade(participant_id=participant_id, energy_wh=energy_wh, bid_cut=cuts[0], ask_cut=cuts[1])
