"""How well a participant traded: his prices beside those of his markets in the same epochs, and how much was filled.

An advantage is money: what he received above the market's average for the energy he sold, or paid below it for what he
bought. Each epoch's average is applied to his energy by one division, rounded down.
"""

from collections.abc import Sequence

from msgspec import Struct

from engine.analytics.series import share_bps
from engine.units import WH_PER_KWH, EnergyWh, MoneyMicro, PriceMicro


class EpochPosition(Struct, frozen=True, gc=False):
    """One participant's trades in one epoch of one market, and all trades of that epoch, at makers' own prices."""

    bought_wh: EnergyWh
    sold_wh: EnergyWh
    paid_micro: MoneyMicro
    received_micro: MoneyMicro
    fees_micro: MoneyMicro
    trades: int
    volume_wh: EnergyWh
    value_micro: MoneyMicro


class PlacedOrders(Struct, frozen=True):
    """Orders of a period that have ended."""

    orders: int
    filled_orders: int  # all of it
    quantity_wh: EnergyWh
    filled_wh: EnergyWh


class Performance(Struct, frozen=True):
    """Average prices are rounded down to a micro, None where nothing was traded. fill_bps: of the energy ordered."""

    trades: int
    bought_wh: EnergyWh
    sold_wh: EnergyWh
    average_buy_micro: PriceMicro | None
    average_sell_micro: PriceMicro | None
    buy_advantage_micro: int
    sell_advantage_micro: int
    fees_micro: MoneyMicro
    orders: int
    filled_orders: int
    fill_bps: int | None


def performance(positions: Sequence[EpochPosition], placed: PlacedOrders) -> Performance:
    bought, sold = sum(one.bought_wh for one in positions), sum(one.sold_wh for one in positions)
    paid, received = sum(one.paid_micro for one in positions), sum(one.received_micro for one in positions)
    return Performance(
        sum(one.trades for one in positions),
        bought,
        sold,
        paid * WH_PER_KWH // bought if bought else None,
        received * WH_PER_KWH // sold if sold else None,
        sum(one.value_micro * one.bought_wh // one.volume_wh for one in positions) - paid,
        received - sum(one.value_micro * one.sold_wh // one.volume_wh for one in positions),
        sum(one.fees_micro for one in positions),
        placed.orders,
        placed.filled_orders,
        share_bps(placed.filled_wh, placed.quantity_wh),
    )
