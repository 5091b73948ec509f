"""A replica of one market's price levels, kept by applying the feed, and the deltas that its readers get.

A delta takes a reader from `previous_sequence` to `sequence` with no gap, also over a lost connection: what a new
snapshot changes is told as one delta.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

from engine.messages import Side
from engine.units import EnergyWh, PriceMicro
from engine.views import BookView, Level, LevelChange
from gateway.decimals import format_energy, format_price
from gateway.wire import CHECKSUM_LEVELS, ShownLevel, checksum, show_level


class SideLevels:
    """One side, prices in ascending order."""

    def __init__(self) -> None:
        self._prices: list[PriceMicro] = []
        self._levels: dict[PriceMicro, tuple[EnergyWh, int]] = {}

    def put(self, price_micro: PriceMicro, quantity_wh: EnergyWh, orders: int) -> None:
        if quantity_wh == 0:
            if self._levels.pop(price_micro, None) is not None:
                del self._prices[bisect_left(self._prices, price_micro)]
            return
        if price_micro not in self._levels:
            insort(self._prices, price_micro)
        self._levels[price_micro] = (quantity_wh, orders)

    def best(self, count: int, *, highest: bool) -> list[Level]:
        """The best levels, best first: of bids the highest, of asks the lowest."""
        prices = self._prices[-count:][::-1] if highest else self._prices[:count]
        return [Level(price, *self._levels[price]) for price in prices]

    def changes_to(self, side: Side, levels: Iterable[Level]) -> list[LevelChange]:
        """What has to change for this side to be those levels."""
        wanted = {level.price_micro: (level.quantity_wh, level.orders) for level in levels}
        gone = [LevelChange(side, price, 0, 0) for price in self._prices if price not in wanted]
        return gone + [
            LevelChange(side, price, *level) for price, level in wanted.items() if self._levels.get(price) != level
        ]

    def __len__(self) -> int:
        return len(self._prices)


class BookReplica:
    def __init__(self) -> None:
        self.sequence = 0
        self.bids, self.asks = SideLevels(), SideLevels()

    def apply(self, sequence: int, changes: Iterable[LevelChange]) -> None:
        for change in changes:
            side = self.bids if change.side is Side.BUY else self.asks
            side.put(change.price_micro, change.quantity_wh, change.orders)
        self.sequence = sequence

    def changes_to(self, view: BookView) -> list[LevelChange]:
        return self.bids.changes_to(Side.BUY, view.bids) + self.asks.changes_to(Side.SELL, view.asks)

    def shown(self, depth: int) -> tuple[list[ShownLevel], list[ShownLevel]]:
        """Bids and asks, best first, as the API shows them."""
        bids, asks = self.bids.best(depth, highest=True), self.asks.best(depth, highest=False)
        return [show_level(level) for level in bids], [show_level(level) for level in asks]

    def checksum(self) -> int:
        return checksum(*self.shown(CHECKSUM_LEVELS))


def show_changes(changes: Iterable[LevelChange]) -> tuple[list[ShownLevel], list[ShownLevel]]:
    """Changed bids and asks; the quantity "0.000" means that the level is gone."""
    bids: list[ShownLevel] = []
    asks: list[ShownLevel] = []
    for change in changes:
        level = (format_price(change.price_micro), format_energy(change.quantity_wh), change.orders)
        (bids if change.side is Side.BUY else asks).append(level)
    return bids, asks
