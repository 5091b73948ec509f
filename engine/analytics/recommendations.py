"""What a participant could do better next week, each with its reason in numbers of the last seven days.

    ask_higher    in the three hours of most export, asks at a higher price than his own median were filled by 80 %
    shift_use     he imports at some hours what he exports at others, and the grid's prices differ
    sell_more     energy that he was credited lies neither sold nor used

Hours are of the day, in UTC. An ask level is known by ten orders or more, so that it is no single neighbour's.
"""

from collections.abc import Collection, Sequence
from typing import Final

from msgspec import Struct

from engine.analytics.series import share_bps
from engine.units import EnergyWh, MoneyMicro, PriceMicro, value_micro

STRETCH_HOURS: Final = 3
HOURS: Final = 24
ENERGY_WH_MIN: Final = 1_000  # a week; less is not worth a word
ORDERS_MIN: Final = 10
FILLED_BPS_MIN: Final = 8_000
LEVEL_MICRO: Final = 100_000  # asks are looked at in levels of 0.10, by their lower end


class Sale(Struct, frozen=True, gc=False):
    """One's own sales of an hour of the day at one price."""

    hour: int
    price_micro: PriceMicro
    energy_wh: EnergyWh


class AskLevel(Struct, frozen=True, gc=False):
    """All asks of a week that were placed in an hour of the day at the prices of a level, and have ended."""

    hour: int
    price_micro: PriceMicro
    orders: int
    quantity_wh: EnergyWh
    filled_wh: EnergyWh


class Week(Struct, frozen=True):
    """Seven days: energies by hour of the day [24], own sales, the asks of one's markets, and the grid's prices."""

    import_wh: Sequence[EnergyWh]
    export_wh: Sequence[EnergyWh]
    credited_wh: EnergyWh
    retired_wh: EnergyWh
    sold_wh: EnergyWh
    sales: Sequence[Sale]
    asks: Sequence[AskLevel]
    retail_micro: PriceMicro | None
    feed_in_micro: PriceMicro | None


class AskHigher(Struct, frozen=True):
    """From hour to hour, which does not count; median of one's own sales there, else the feed-in price."""

    from_hour: int
    to_hour: int
    export_wh: EnergyWh
    own_micro: PriceMicro
    own_sales: bool
    ask_micro: PriceMicro
    filled_bps: int
    orders: int


class ShiftUse(Struct, frozen=True):
    from_hour: int
    to_hour: int
    import_wh: EnergyWh
    to_from_hour: int
    to_to_hour: int
    export_wh: EnergyWh
    saves_micro: MoneyMicro  # if all that can be shifted is: a week


class SellMore(Struct, frozen=True):
    credited_wh: EnergyWh
    used_wh: EnergyWh
    sold_wh: EnergyWh
    left_wh: EnergyWh


Recommendation = AskHigher | ShiftUse | SellMore


def recommendations(week: Week) -> list[Recommendation]:
    found = (_ask_higher(week), _shift_use(week), _sell_more(week))
    return [one for one in found if one is not None]


def _ask_higher(week: Week) -> AskHigher | None:
    start = _stretch(week.export_wh)
    export = _sum(week.export_wh, start)
    hours = _hours(start)
    sales = [sale for sale in week.sales if sale.hour in hours]
    own = median_price(sales) if sales else week.feed_in_micro
    if export < ENERGY_WH_MIN or own is None:
        return None
    best: AskHigher | None = None
    for price in sorted({one.price_micro for one in week.asks if one.price_micro > own}):
        level = [one for one in week.asks if one.price_micro == price and one.hour in hours]
        orders = sum(one.orders for one in level)
        filled = share_bps(sum(one.filled_wh for one in level), sum(one.quantity_wh for one in level))
        if orders >= ORDERS_MIN and filled is not None and filled >= FILLED_BPS_MIN:
            best = AskHigher(start, _end(start), export, own, bool(sales), price, filled, orders)
    return best


def _shift_use(week: Week) -> ShiftUse | None:
    if week.retail_micro is None or week.feed_in_micro is None or week.retail_micro <= week.feed_in_micro:
        return None
    sunny = _stretch(week.export_wh)
    import_wh = [0 if hour in _hours(sunny) else energy for hour, energy in enumerate(week.import_wh)]
    dark = _stretch(import_wh)
    exported, imported = _sum(week.export_wh, sunny), _sum(import_wh, dark)
    shifted = min(exported, imported)
    if shifted < ENERGY_WH_MIN:
        return None
    saves = value_micro(week.retail_micro - week.feed_in_micro, shifted)
    return ShiftUse(dark, _end(dark), imported, sunny, _end(sunny), exported, saves)


def _sell_more(week: Week) -> SellMore | None:
    left = week.credited_wh - week.retired_wh - week.sold_wh
    if left < ENERGY_WH_MIN:
        return None
    return SellMore(week.credited_wh, week.retired_wh, week.sold_wh, left)


def median_price(sales: Sequence[Sale]) -> PriceMicro:
    """The price below or at which half of the energy was sold; the lower one of two."""
    total, seen = sum(sale.energy_wh for sale in sales), 0
    for sale in sorted(sales, key=lambda one: one.price_micro):
        seen += sale.energy_wh
        if seen * 2 >= total:
            return sale.price_micro
    raise AssertionError("there are sales")


def _stretch(energies_wh: Sequence[EnergyWh]) -> int:
    """The first hour of the stretch with the most energy, the earliest of equals; it may go over midnight."""
    return max(range(HOURS), key=lambda start: (_sum(energies_wh, start), -start))


def _sum(energies_wh: Sequence[EnergyWh], start: int) -> EnergyWh:
    return sum(energies_wh[hour] for hour in _hours(start))


def _hours(start: int) -> Collection[int]:
    return [(start + place) % HOURS for place in range(STRETCH_HOURS)]


def _end(start: int) -> int:
    return (start + STRETCH_HOURS) % HOURS
