"""Lanes: the paths of a market bound to the sides of the book that they connect, with what each still carries."""

from engine.book.side import BookSide
from engine.market import UNLIMITED_WH, MarketSpec, Path
from engine.messages import Side
from engine.units import BPS, EnergyWh, PriceMicro

_ENDLESS_WH = 2**62


class Lane:
    """Asks of one zone on their way to bids of another. left_wh is in whole lots, for this epoch."""

    __slots__ = (
        "_capacity_wh",
        "_lot_wh",
        "asks",
        "bids",
        "is_link",
        "left_wh",
        "limited",
        "loss_bps",
        "loss_divisor",
        "path",
        "tick_micro",
        "used_wh",
        "wheeling_micro",
    )

    def __init__(self, path: Path, spec: MarketSpec, asks: BookSide, bids: BookSide) -> None:
        self.path = path
        self.asks = asks
        self.bids = bids
        self.wheeling_micro = path.wheeling_micro
        self.loss_bps = path.loss_bps
        self.tick_micro = spec.tick_micro
        self.loss_divisor = BPS * spec.tick_micro
        self.is_link = path.zone_from != path.zone_to  # what passes is counted, also while nothing limits it
        self.limited = self.is_link and path.capacity_wh != UNLIMITED_WH
        self._capacity_wh = path.capacity_wh
        self._lot_wh = spec.lot_wh
        self.used_wh: EnergyWh = 0
        self.left_wh: EnergyWh = _ENDLESS_WH
        self.set_used(0)

    def set_used(self, energy_wh: EnergyWh) -> None:
        """How much has passed in this epoch; a capacity that was lowered since may be exceeded already."""
        self.used_wh = energy_wh
        if self.limited:
            self.left_wh = max(0, self._capacity_wh - energy_wh) // self._lot_wh * self._lot_wh

    def landed(self, ask_micro: PriceMicro) -> PriceMicro:
        """`engine.market.landed` for this path, written out for the hot path."""
        tick = self.tick_micro
        return ask_micro + self.wheeling_micro - (-ask_micro * self.loss_bps // self.loss_divisor) * tick

    def ask_equivalent(self, bid_micro: PriceMicro) -> PriceMicro:
        """`engine.market.ask_equivalent` for this path, written out for the hot path."""
        tick = self.tick_micro
        return (bid_micro - self.wheeling_micro) * BPS // ((BPS + self.loss_bps) * tick) * tick


def lanes_of(spec: MarketSpec, sides: dict[tuple[Side, str], BookSide]) -> dict[tuple[str, str], Lane]:
    """A lane for each path of the market, by (seller's zone, buyer's zone)."""
    return {
        (path.zone_from, path.zone_to): Lane(
            path, spec, asks=sides[Side.SELL, path.zone_from], bids=sides[Side.BUY, path.zone_to]
        )
        for path in spec.paths
    }
