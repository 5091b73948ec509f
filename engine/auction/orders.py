"""What an auction takes and gives: orders, the rules that price them, fills, and where a side was cut off.

Inside an auction prices are levels: what a seller receives per kWh. A bid's level is its ask-equivalent, so a bid and
an ask meet when the bid's level is at least the ask's, and whoever pays the landed price of a level not above his own
stays within his limit. Orders go by level, equals by priority (docs/decisions/0012). See docs/auctions.md.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final

from msgspec import Struct

from engine.market import MarketSpec, Path, ask_equivalent
from engine.messages import OrderId, ParticipantId, Side
from engine.units import ENERGY_WH_MAX, PRICE_MICRO_MAX, EnergyWh, PriceMicro

NO_LEVEL: Final = -1  # of an order that no price inside the corridor satisfies
BY_PRIORITY: Final = attrgetter("priority")


class AuctionOrder(Struct, frozen=True, array_like=True, gc=False):
    """An order's unfilled rest at the end of the call. price_micro 0: a market order that takes the corridor's end.

    priority: the sequence at which it got its present place; no two orders share one.
    """

    order_id: OrderId
    participant_id: ParticipantId
    side: Side
    price_micro: PriceMicro
    quantity_wh: EnergyWh
    priority: int
    zone: str


class Fill(Struct, frozen=True, array_like=True, gc=False):
    """How much of an order trades, at the zone's price for its side."""

    order_id: OrderId
    participant_id: ParticipantId
    side: Side
    energy_wh: EnergyWh


class Cut(Struct, frozen=True, array_like=True, gc=False):
    """The last order of a side that gets something, and how much: those before it are filled, those after get nothing.

    Before means a better level, or the same level and an earlier priority. All zero: nobody gets anything.
    """

    level_micro: PriceMicro = 0
    priority: int = 0
    energy_wh: EnergyWh = 0


class Rules(Struct, frozen=True, kw_only=True):
    """The part of a market's rules that auctions need."""

    tick_micro: PriceMicro
    lot_wh: EnergyWh
    price_micro_min: PriceMicro
    price_micro_max: PriceMicro
    paths: tuple[Path, ...]

    def path(self, zone_from: str, zone_to: str) -> Path:
        """Raises KeyError when the pair has no costs: it cannot trade."""
        for path in self.paths:
            if (path.zone_from, path.zone_to) == (zone_from, zone_to):
                return path
        raise KeyError(f"no costs from {zone_from} to {zone_to}")

    def limit(self, side: Side, price_micro: PriceMicro) -> PriceMicro:
        """The order's limit as far as the corridor lets it count; NO_LEVEL when all of the corridor is beyond it."""
        low, high = self.price_micro_min, self.price_micro_max
        if side is Side.SELL:
            return max(price_micro, low) if price_micro <= high else NO_LEVEL
        if price_micro == 0:
            return high
        return min(price_micro, high) if price_micro >= low else NO_LEVEL

    def level(self, side: Side, price_micro: PriceMicro, path: Path) -> PriceMicro:
        """What the seller at the other end of the path can receive or demands per kWh; NO_LEVEL when nothing."""
        limit = self.limit(side, price_micro)
        if side is Side.SELL or limit == NO_LEVEL:
            return limit
        level = ask_equivalent(limit, path.wheeling_micro, path.loss_bps, self.tick_micro)
        return level if level > 0 else NO_LEVEL


def rules_of(spec: MarketSpec) -> Rules:
    """What the auctions of this market go by."""
    return Rules(
        tick_micro=spec.tick_micro,
        lot_wh=spec.lot_wh,
        price_micro_min=spec.price_micro_min,
        price_micro_max=spec.price_micro_max,
        paths=spec.paths,
    )


def rule_problems(rules: Rules) -> Iterator[str]:
    """What keeps these from being the rules of any market."""
    tick = rules.tick_micro
    if tick <= 0 or tick % 1_000:
        yield "tick: must be a multiple of 0.001"
        return
    if rules.lot_wh <= 0:
        yield "lot: must be at least 1 Wh"
    if not 0 < rules.price_micro_min <= rules.price_micro_max <= PRICE_MICRO_MAX:
        yield "price_min: must be above 0, at most price_max, which is at most 100000"
    if rules.price_micro_min % tick or rules.price_micro_max % tick:
        yield "price_min, price_max: must be multiples of tick"
    pairs = [(path.zone_from, path.zone_to) for path in rules.paths]
    if len(set(pairs)) != len(pairs):
        yield "costs: each pair of zones may appear once"
    for path in rules.paths:
        if path.wheeling_micro < 0 or path.wheeling_micro % tick or not 0 <= path.loss_bps < 10_000:
            yield f"costs {path.zone_from} to {path.zone_to}: wheeling or loss is out of range"
        if path.capacity_wh < -1:
            yield f"costs {path.zone_from} to {path.zone_to}: energy_per_epoch must be 0 or more"


def order_problems(orders: Sequence[AuctionOrder], rules: Rules, zones: Iterable[str]) -> Iterator[str]:
    """What keeps this from being an auction's list of orders: in order of priority, each as the market lets it in."""
    before, known, seen = -1, frozenset(zones), set[int]()
    tick, lot = rules.tick_micro, rules.lot_wh
    for order in orders:
        if order.priority <= before:
            yield f"order {order.order_id}: the list is not in order of priority"
        if order.order_id in seen:
            yield f"order {order.order_id}: appears twice"
        if order.zone not in known:
            yield f"order {order.order_id}: zone {order.zone} is not in this auction"
        if not 0 <= order.price_micro <= PRICE_MICRO_MAX or order.price_micro % tick:
            yield f"order {order.order_id}: its price is no price on the tick"
        if not 0 < order.quantity_wh <= ENERGY_WH_MAX or order.quantity_wh % lot:
            yield f"order {order.order_id}: its quantity is no multiple of the lot"
        before = order.priority
        seen.add(order.order_id)
