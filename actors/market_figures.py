"""The quality of one market for metrics: spread, depth, queue, and what was traded.

Counted per commit, sampled twice a second, nothing per order: prometheus' own counters cost microseconds.
"""

from typing import Final

from actors import metrics
from engine.book.order_book import OrderBook
from engine.messages import Side

DEPTH_LEVELS: Final = 10
_NONE: Final = float("nan")


class MarketFigures:
    def __init__(self, symbol: str) -> None:
        self._sequence = metrics.MARKET_SEQUENCE.labels(symbol)
        self._open = metrics.MARKET_OPEN.labels(symbol)
        self._orders = metrics.OPEN_ORDERS.labels(symbol)
        self._waiting = metrics.MARKET_WAITING.labels(symbol)
        self._spread = metrics.SPREAD_MICRO.labels(symbol)
        self._depth = {side: metrics.DEPTH_WH.labels(symbol, side.name.lower()) for side in Side}
        self._traded = (metrics.TRADES.labels(symbol), metrics.VOLUME_WH.labels(symbol))
        self._turnover = metrics.TURNOVER_MICRO.labels(symbol)
        self._trades = 0  # since the process began
        self._untold = [0, 0, 0]  # trades, energy, turnover since the last sample

    def count(self, trades: int, volume_wh: int, turnover_micro: int) -> None:
        """Of one commit, which is durable now."""
        if trades:
            self._trades += trades
            untold = self._untold
            untold[0] += trades
            untold[1] += volume_wh
            untold[2] += turnover_micro

    def look(self, book: OrderBook | None, waiting: int, *, is_open: bool) -> dict[str, float]:
        """Set the gauges; return what Ray's dashboard shows."""
        trades, volume_wh, turnover_micro = self._untold
        if trades:
            self._traded[0].inc(trades)
            self._traded[1].inc(volume_wh)
            self._turnover.inc(turnover_micro)
            self._untold = [0, 0, 0]
        self._open.set(is_open)
        self._waiting.set(waiting)
        if book is not None:
            self._sequence.set(book.sequence)
            self._orders.set(len(book.orders))
            self._spread.set(spread_micro(book))
            for side, gauge in self._depth.items():
                gauge.set(depth_wh(book, side))
        return {"waiting": waiting, "trades": self._trades, "open_orders": len(book.orders) if book else 0}


def spread_micro(book: OrderBook) -> float:
    """What a best bid lacks to a best ask as it lands there, on the path where it is least; NaN when none has both."""
    lacks = [
        lane.landed(lane.asks.best.price_micro) - lane.bids.best.price_micro
        for lane in book.lanes.values()
        if lane.asks.best is not None and lane.bids.best is not None
    ]
    return min(lacks, default=_NONE)


def depth_wh(book: OrderBook, side: Side) -> int:
    """Energy at the best DEPTH_LEVELS prices of each zone."""
    total = 0
    for zone in book.spec.zones:
        levels = book.sides[side, zone]
        for place in range(DEPTH_LEVELS):
            level = levels.next_after(place)
            if level is None:
                break
            total += level.total_wh
    return total
