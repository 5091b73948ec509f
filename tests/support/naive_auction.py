"""Naive twins of the auctions: they try every price and every unit of energy, and are too slow for more than a few.

The bound for several zones is a linear programme solved by scipy's HiGHS, in floats: an independent opinion.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from engine.auction.network import NetworkResult
from engine.auction.orders import AuctionOrder, Rules
from engine.market import UNLIMITED_WH, Path
from engine.messages import Side
from tests.support.naive_book import ask_equivalent, landed


@dataclass(frozen=True)
class NaiveResult:
    price: int
    volume: int
    surplus: int
    fills: dict[int, int]  # by order, before anything is left out for self-trades


def sellers_terms(order: AuctionOrder, rules: Rules) -> int | None:
    """What the order demands, or leaves to a seller in its own zone; None when it cannot trade in the corridor."""
    low, high = rules.price_micro_min, rules.price_micro_max
    if order.side is Side.SELL:
        return None if order.price_micro > high else max(order.price_micro, low)
    if 0 < order.price_micro < low:
        return None
    limit = high if order.price_micro == 0 else min(order.price_micro, high)
    return ask_equivalent(limit, rules.path(order.zone, order.zone), rules.tick_micro) or None


def naive_clear(orders: Sequence[AuctionOrder], rules: Rules) -> NaiveResult | None:
    """Every tick of the corridor is tried; None when nothing trades at any."""
    known = [(sellers_terms(order, rules), order) for order in orders]
    bids = sorted((-term, o.priority, o.order_id, o.quantity_wh) for term, o in known if term and o.side is Side.BUY)
    asks = sorted((term, o.priority, o.order_id, o.quantity_wh) for term, o in known if term and o.side is Side.SELL)
    candidates = []
    for price in range(rules.tick_micro, rules.price_micro_max + 1, rules.tick_micro):
        demand = sum(quantity for term, _, _, quantity in bids if -term >= price)
        supply = sum(quantity for term, _, _, quantity in asks if term <= price)
        candidates.append((min(demand, supply), -abs(demand - supply), price, demand - supply))
    volume = max(candidate[0] for candidate in candidates)
    if volume == 0:
        return None
    best = max(candidate[:2] for candidate in candidates)
    among = {price: surplus for *value, price, surplus in candidates if tuple(value) == best}
    fills, marginal = {}, []
    for side in (bids, asks):
        left = volume
        for term, _, order_id, quantity in side:
            if left:
                fills[order_id] = min(left, quantity)
                left -= fills[order_id]
                last = abs(term)
        marginal.append(last)
    middle = sum(marginal) / 2
    below = [price for price in among if price <= middle]
    price = max(below) if below else min(among)
    return NaiveResult(price, volume, among[price], fills)


def reductions(fills: dict[int, int]) -> Iterator[dict[int, int]]:
    """Every way to take something, or nothing, off these fills."""
    for kept in product(*(range(energy + 1) for energy in fills.values())):
        yield dict(zip(fills, kept, strict=True))


def can_be_paired(bought: dict[int, int], sold: dict[int, int]) -> bool:
    """Whether everybody can trade with others alone, by augmenting paths over single units."""
    units = [buyer for buyer, energy in bought.items() for _ in range(energy)]
    offers = [seller for seller, energy in sold.items() for _ in range(energy)]
    taken: dict[int, int] = {}

    def seat(unit: int, seen: set[int]) -> bool:
        for offer, seller in enumerate(offers):
            if seller != units[unit] and offer not in seen:
                seen.add(offer)
                if offer not in taken or seat(taken[offer], seen):
                    taken[offer] = unit
                    return True
        return False

    return len(units) == len(offers) and all(seat(unit, set()) for unit in range(len(units)))


def limit_of(order: AuctionOrder, rules: Rules) -> int | None:
    """The order's price as the corridor lets it count, in its own side's terms."""
    low, high = rules.price_micro_min, rules.price_micro_max
    if order.side is Side.SELL:
        return None if order.price_micro > high else max(order.price_micro, low)
    if order.price_micro == 0:
        return high
    return None if order.price_micro < low else min(order.price_micro, high)


def welfare(result: NetworkResult, orders: Iterable[AuctionOrder], rules: Rules, charges: dict[Path, int]) -> int:
    """What bids are worth less what asks want less the charges per kWh of what flowed, in micro x Wh per kWh."""
    accepted = {fill.order_id: fill.energy_wh for fill in (*result.fills,)}
    for fill in result.left_out:
        accepted[fill.order_id] = accepted.get(fill.order_id, 0) + fill.energy_wh
    total = 0
    for order in orders:
        if order.order_id in accepted:
            limit = limit_of(order, rules)
            assert limit is not None
            total += (1 if order.side is Side.BUY else -1) * limit * accepted[order.order_id]
    for flow in result.flows:
        total -= charges[rules.path(flow.zone_from, flow.zone_to)] * flow.energy_wh
    return total


def best_welfare(
    orders: Sequence[AuctionOrder], zones: Sequence[str], rules: Rules, charges: dict[Path, int]
) -> tuple[float, float]:
    """The optimum of the linear programme with these charges per kWh, and its volume in Wh."""
    offered = [(order, limit_of(order, rules)) for order in orders]
    trading = [(order, limit) for order, limit in offered if limit is not None]
    paths = [path for path in charges if path.zone_from in zones and path.zone_to in zones]
    if not trading or not paths:
        return 0.0, 0.0
    gains = [(limit if order.side is Side.BUY else -limit) for order, limit in trading]
    gains += [-charges[path] for path in paths]
    rows, columns, values = [], [], []
    for column, (order, _) in enumerate(trading):
        rows.append(zones.index(order.zone) + (len(zones) if order.side is Side.BUY else 0))
        columns.append(column)
        values.append(-1)
    for column, path in enumerate(paths, len(trading)):
        for row in (zones.index(path.zone_from), len(zones) + zones.index(path.zone_to)):
            rows.append(row)
            columns.append(column)
            values.append(1)
    balance = csr_array((values, (rows, columns)), shape=(2 * len(zones), len(gains)))
    limited = [path.capacity_wh != UNLIMITED_WH and path.zone_from != path.zone_to for path in paths]
    bounds = [(0, order.quantity_wh) for order, _ in trading] + [
        (0, path.capacity_wh // rules.lot_wh * rules.lot_wh if limit else None)
        for path, limit in zip(paths, limited, strict=True)
    ]
    solved = linprog(-np.array(gains), A_eq=balance, b_eq=np.zeros(2 * len(zones)), bounds=bounds, method="highs")
    assert solved.status == 0, solved.message
    return -float(solved.fun), float(sum(solved.x[len(trading) :]))


def charge(path: Path, seller_price: int, rules: Rules) -> int:
    """Wheeling and loss per kWh at this seller's price."""
    return landed(seller_price, path, rules.tick_micro) - seller_price


def naive_network_prices(
    orders: Sequence[AuctionOrder], zones: tuple[str, str], rules: Rules, ticks_max: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """All prices of two zones in ticks, buyers' and sellers', at which every order and every lane is content."""
    tick, found = rules.tick_micro, []
    limits = [(order, limit_of(order, rules)) for order in orders]

    def willing(side: Side, zone: str, price: int) -> tuple[int, int]:
        """What must trade at this price, and what may."""
        mine = [(o.quantity_wh, limit // tick) for o, limit in limits if limit and (o.side, o.zone) == (side, zone)]
        better = [q for q, limit in mine if (limit > price if side is Side.BUY else limit < price)]
        return sum(better), sum(better) + sum(q for q, limit in mine if limit == price)

    sides = {(side, zone, p): willing(side, zone, p) for side in Side for zone in zones for p in range(ticks_max + 1)}
    most = sum(order.quantity_wh for order in orders) + 1
    bounds = {}
    for a, b in product(zones, zones):
        path = rules.path(a, b)
        capacity = most if a == b or path.capacity_wh == UNLIMITED_WH else path.capacity_wh
        for seller, buyer in product(range(ticks_max + 1), repeat=2):
            pays = landed(seller * tick, path, tick) <= buyer * tick
            pays_more = landed((seller + 1) * tick, path, tick) <= buyer * tick
            bounds[a, b, seller, buyer] = (capacity * pays_more, capacity * pays)
    couples = [(first, second) for first in range(ticks_max + 1) for second in range(ticks_max + 1)]
    for buyers in couples:
        for sellers in couples:
            cells = [[bounds[zones[i], zones[j], sellers[i], buyers[j]] for j in (0, 1)] for i in (0, 1)]
            rows = [sides[Side.SELL, zones[i], sellers[i]] for i in (0, 1)]
            columns = [sides[Side.BUY, zones[j], buyers[j]] for j in (0, 1)]
            if _some_flow(cells, rows, columns):
                found.append((buyers, sellers))
    return found


def _some_flow(cells: list[list[tuple[int, int]]], rows: list[tuple[int, int]], columns: list[tuple[int, int]]) -> bool:
    """Whether four numbers within their bounds have sums within theirs, by trying the first two."""
    for first in range(cells[0][0][0], cells[0][0][1] + 1):
        for second in range(cells[0][1][0], cells[0][1][1] + 1):
            if not rows[0][0] <= first + second <= rows[0][1]:
                continue
            low = [max(cells[1][k][0], columns[k][0] - taken) for k, taken in enumerate((first, second))]
            high = [min(cells[1][k][1], columns[k][1] - taken) for k, taken in enumerate((first, second))]
            fits = all(a <= b for a, b in zip(low, high, strict=True))
            if fits and sum(low) <= rows[1][1] and sum(high) >= rows[1][0]:
                return True
    return False
