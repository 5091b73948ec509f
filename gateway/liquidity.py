"""How liquid a book is: spread, depth around the middle, and what taking a quantity would cost."""

from msgspec import Struct

from engine.market import MarketSpec
from engine.units import BPS, value_micro
from engine.views import BookView, Level
from gateway.decimals import format_energy, format_price
from gateway.wire import Energy, Price


class Depths(Struct, frozen=True):
    bids: Energy
    asks: Energy


class Slippage(Struct, frozen=True):
    """What taking this quantity would cost now, at makers' own prices; null fields where the book is too thin."""

    quantity: Energy
    fillable: Energy
    average_price: Price | None
    worst_price: Price | None
    slippage_bps: int | None


class LiquidityShown(Struct, frozen=True):
    symbol: str
    sequence: int
    mid: Price | None
    spread: Price | None
    spread_bps: int | None
    within_1_percent: Depths
    within_5_percent: Depths
    buy: Slippage | None
    sell: Slippage | None


def show_liquidity(spec: MarketSpec, view: BookView, wanted_wh: int) -> LiquidityShown:
    bid = view.bids[0].price_micro if view.bids else None
    ask = view.asks[0].price_micro if view.asks else None
    mid = (bid + ask) // 2 if bid is not None and ask is not None else None
    spread = ask - bid if bid is not None and ask is not None else None
    return LiquidityShown(
        symbol=spec.symbol,
        sequence=view.sequence,
        mid=format_price(mid) if mid is not None else None,
        spread=format_price(spread) if spread is not None else None,
        spread_bps=spread * BPS // mid if spread is not None and mid else None,
        within_1_percent=_depths(view, mid, 100),
        within_5_percent=_depths(view, mid, 500),
        buy=_slippage(view.asks, wanted_wh) if wanted_wh else None,
        sell=_slippage(view.bids, wanted_wh) if wanted_wh else None,
    )


def _depths(view: BookView, mid_micro: int | None, bps: int) -> Depths:
    """Energy that rests within so many basis points of the middle, or of the best price where there is no middle."""

    def near(levels: tuple[Level, ...]) -> str:
        if not levels:
            return format_energy(0)
        centre = mid_micro if mid_micro is not None else levels[0].price_micro
        return format_energy(
            sum(one.quantity_wh for one in levels if abs(one.price_micro - centre) * BPS <= centre * bps)
        )

    return Depths(near(view.bids), near(view.asks))


def _slippage(levels: tuple[Level, ...], wanted_wh: int) -> Slippage:
    left_wh, cost_micro, worst = wanted_wh, 0, None
    for level in levels:
        if left_wh == 0:
            break
        taken_wh = min(left_wh, level.quantity_wh)
        cost_micro += value_micro(level.price_micro, taken_wh)
        left_wh -= taken_wh
        worst = level.price_micro
    filled_wh = wanted_wh - left_wh
    average = cost_micro * 1_000 // filled_wh if filled_wh else None
    return Slippage(
        quantity=format_energy(wanted_wh),
        fillable=format_energy(filled_wh),
        average_price=format_price(average) if average is not None else None,
        worst_price=format_price(worst) if worst is not None else None,
        slippage_bps=abs(average - levels[0].price_micro) * BPS // levels[0].price_micro
        if average is not None
        else None,
    )
