"""The prices at which several zones clear together: what buyers pay in each zone, what sellers receive in each.

At a clearing, energy passes a lane only if the buyers' price pays for the sellers' with the lane's costs; a lane on
which it would leave the seller more than that is full; who is better than his zone's price trades, who is worse does
not. Loss is charged on the clearing price, so costs move with prices: this is an equilibrium and no linear programme.
docs/decisions/0033 says why there is one on the tick, and what happens when the search misses it by a rounding: then
charges are fixed where it ended, and with fixed charges it always arrives (it then minimises an L-natural convex
function; Murota, Discrete Convex Analysis, 2003, chapter 10).

The search: from prices at which nobody is short, lower those of the largest set of zones that has enough without
them; first on a coarse grid, then on ones twice as fine, down to the tick. Only whole numbers, no tolerance.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from engine.auction.routing import Routing
from engine.market import UNLIMITED_WH, Path, landed
from engine.units import BPS, EnergyWh, PriceMicro

ENDLESS_WH: Final = 2**62
_NEVER: Final = 2**62  # a price, in steps of the grid


class Curve:
    """One side of one zone: how much is willing at each price."""

    __slots__ = ("prices", "sums")

    def __init__(self, energy_at: dict[PriceMicro, EnergyWh]) -> None:
        self.prices = sorted(energy_at)
        self.sums = [0, *accumulate(energy_at[price] for price in self.prices)]

    def below(self, price: PriceMicro) -> EnergyWh:
        """Energy at prices under this one."""
        return self.sums[bisect_left(self.prices, price)]

    def from_(self, price: PriceMicro) -> EnergyWh:
        """Energy at this price and above."""
        return self.sums[-1] - self.below(price)

    def exceeds(self, energy_wh: EnergyWh) -> PriceMicro | None:
        """The first price up to which there is more than this; None if there never is."""
        place = bisect_right(self.sums, energy_wh) - 1
        return self.prices[place] if place < len(self.prices) else None


class Lane:
    """A path between two zones by their numbers, with its capacity in whole lots.

    charge_micro: wheeling and loss per kWh where they have been fixed; None while loss follows the seller's price.
    """

    __slots__ = ("bought_at", "capacity_wh", "charge_micro", "path", "sold_at")

    def __init__(self, path: Path, sold_at: int, bought_at: int, lot_wh: EnergyWh) -> None:
        self.path = path
        self.sold_at, self.bought_at = sold_at, bought_at
        limited = sold_at != bought_at and path.capacity_wh != UNLIMITED_WH
        self.capacity_wh = path.capacity_wh // lot_wh * lot_wh if limited else ENDLESS_WH
        self.charge_micro: PriceMicro | None = None

    def left_to_seller(self, buyer_price: int, step: PriceMicro) -> int:
        """The ask-equivalent, rounded down to the grid; prices are in its steps."""
        if self.charge_micro is not None:
            return (buyer_price * step - self.charge_micro) // step
        return (buyer_price * step - self.path.wheeling_micro) * BPS // ((BPS + self.path.loss_bps) * step)


class Situation:
    """What follows from buyers' prices on a grid: sellers' prices, what each lane must and may carry.

    seller_prices: the highest at which each zone's lanes take what its asks must sell. must_wh: on lanes that leave
    the seller more than his price; those in `open` leave just that, and may carry up to their capacity.
    """

    __slots__ = ("asked", "bid", "bought_must", "must_wh", "open", "seller_prices")

    def __init__(
        self, buyer_prices: Sequence[int], bids: Sequence[Curve], asks: Sequence[Curve], lanes: list[Lane], step: int
    ) -> None:
        zones = len(buyer_prices)
        outgoing: list[list[tuple[int, Lane]]] = [[] for _ in range(zones)]
        for lane in lanes:
            if lane.capacity_wh:
                outgoing[lane.sold_at].append((lane.left_to_seller(buyer_prices[lane.bought_at], step), lane))
        self.seller_prices = [_seller_price(lanes_out, asks[zone], step) for zone, lanes_out in enumerate(outgoing)]
        self.must_wh: dict[tuple[int, int], EnergyWh] = {}
        self.open: list[Lane] = []
        self.bought_must = [0] * zones
        self.asked: list[tuple[EnergyWh, EnergyWh]] = []  # by zone: energy that must, and may, leave by open lanes
        for zone, price in enumerate(self.seller_prices):
            must = 0
            for left, lane in outgoing[zone]:
                if left > price:
                    self.must_wh[zone, lane.bought_at] = lane.capacity_wh
                    self.bought_must[lane.bought_at] += lane.capacity_wh
                    must += lane.capacity_wh
                elif left == price:
                    self.open.append(lane)
            curve = asks[zone]
            self.asked.append((max(0, curve.below(price * step) - must), curve.below((price + 1) * step) - must))
        self.bid = [
            (curve.from_((price + 1) * step), curve.from_(price * step))
            for curve, price in zip(bids, buyer_prices, strict=True)
        ]

    def routing(self) -> Routing:
        """The open lanes, empty."""
        routing = Routing(len(self.seller_prices))
        for lane in self.open:
            routing.open_lane(lane.sold_at, lane.bought_at, lane.capacity_wh)
        return routing

    def short(self) -> set[int]:
        """The smallest set of zones whose buyers must have more than can come; empty if nobody is short."""
        zones, routing = len(self.bid), self.routing()
        start = {zone: may for zone, (_, may) in enumerate(self.asked)}
        goal = {zones + zone: max(0, must - self.bought_must[zone]) for zone, (must, _) in enumerate(self.bid)}
        routing.push(start, goal)
        unserved = {node for node, energy_wh in goal.items() if energy_wh}
        return {node - zones for node in routing.reaching(unserved) if node >= zones}

    def provided(self) -> set[int]:
        """The largest set of zones whose buyers get at least all they may take even if no more than must comes."""
        zones, routing = len(self.bid), self.routing()
        start = {zone: must for zone, (must, _) in enumerate(self.asked)}
        goal = {zones + zone: max(0, may - self.bought_must[zone]) for zone, (_, may) in enumerate(self.bid)}
        routing.push(start, goal)
        wanting = {node for node, energy_wh in goal.items() if energy_wh}
        return set(range(zones)) - {node - zones for node in routing.reaching(wanting) if node >= zones}

    def clears(self) -> bool:
        """Whether all that must be bought can come and all that must be sold can go."""
        zones, routing = len(self.bid), self.routing()
        start = {zone: must for zone, (must, _) in enumerate(self.asked)}
        room = {zones + zone: may - self.bought_must[zone] for zone, (_, may) in enumerate(self.bid)}
        routing.push(start, room)
        return not any(start.values()) and all(left >= 0 for left in room.values()) and not self.short()


def _seller_price(outgoing: list[tuple[int, Lane]], asks: Curve, step: PriceMicro) -> int:
    """The highest at which lanes that leave at least that much can take all that is asked below it."""
    beyond, capacity_wh = _NEVER, 0
    for left in sorted({left for left, _ in outgoing}, reverse=True):
        first = asks.exceeds(capacity_wh)
        price = min(beyond, _NEVER if first is None else first // step)
        if price > left:
            return left + 1 if price == _NEVER else price
        beyond = left
        capacity_wh += sum(lane.capacity_wh for equal, lane in outgoing if equal == left)
    first = asks.exceeds(capacity_wh)
    return min(beyond, _NEVER if first is None else first // step)


def clearing_prices(
    bids: Sequence[Curve], asks: Sequence[Curve], lanes: list[Lane], tick: PriceMicro
) -> tuple[list[int], Situation]:
    """Buyers' prices at which everything clears, in ticks by zone, and what follows from them.

    Without losses they are the lowest such prices, with losses no zone's alone could be lower; sellers' prices are the
    highest that go with them. Where charges had to be fixed, the lanes say so.
    """
    prices = _search(bids, asks, lanes, tick)
    situation = Situation(prices, bids, asks, lanes, tick)
    if not situation.clears():
        for lane in lanes:
            seller_price = situation.seller_prices[lane.sold_at] * tick if asks[lane.sold_at].prices else 0
            path = lane.path
            lane.charge_micro = landed(seller_price, path.wheeling_micro, path.loss_bps, tick) - seller_price
        prices = _search(bids, asks, lanes, tick)
        situation = Situation(prices, bids, asks, lanes, tick)
        assert situation.clears(), prices
    return _without_slack(prices, situation, bids, asks, lanes, tick)


def _without_slack(
    prices: list[int], situation: Situation, bids: Sequence[Curve], asks: Sequence[Curve], lanes: list[Lane], tick: int
) -> tuple[list[int], Situation]:
    """Lower one zone's price after the other while all still clears: with losses two can leave a seller the same."""
    zone = 0
    while zone < len(prices):
        lower = [price - (zone == other) for other, price in enumerate(prices)]
        if lower[zone] >= 0 and bids[zone].prices and (below := Situation(lower, bids, asks, lanes, tick)).clears():
            prices, situation, zone = lower, below, 0
        else:
            zone += 1
    return prices, situation


def _search(bids: Sequence[Curve], asks: Sequence[Curve], lanes: list[Lane], tick: PriceMicro) -> list[int]:
    """Each grid starts where the one twice as coarse ended, a step above, and ends where nothing can be lowered."""
    highest = max((curve.prices[-1] // tick for curve in bids if curve.prices), default=0) + 1
    prices = [0] * len(bids)
    for doubling in range(highest.bit_length(), -1, -1):
        step = tick << doubling
        prices = [2 * price + 1 for price in prices]
        while short := Situation(prices, bids, asks, lanes, step).short():
            prices = [price + (zone in short) for zone, price in enumerate(prices)]
        while lower := {zone for zone in Situation(prices, bids, asks, lanes, step).provided() if prices[zone] > 0}:
            prices = [price - (zone in lower) for zone, price in enumerate(prices)]
    return prices
