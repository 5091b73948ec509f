"""What a position came to: average prices, and the result of the energy that was both bought and sold in the epoch.

An average is what one paid or received per kWh in all, rounded down to a micro. The result is what the energy that was
sold again brought at the average of its sales, less what it cost at the average of its purchases: rounded against the
participant, before fees. Charges of the grid are part of what was paid.
"""

from engine.units import WH_PER_KWH, EnergyWh, MoneyMicro, PriceMicro


def average_price_micro(value_micro: MoneyMicro, energy_wh: EnergyWh) -> PriceMicro | None:
    """None where nothing was traded."""
    return value_micro * WH_PER_KWH // energy_wh if energy_wh else None


def realised_micro(
    bought_wh: EnergyWh, sold_wh: EnergyWh, paid_micro: MoneyMicro, received_micro: MoneyMicro
) -> MoneyMicro:
    both_wh = min(bought_wh, sold_wh)
    if both_wh == 0:
        return 0
    return received_micro * both_wh // sold_wh + -(paid_micro * both_wh) // bought_wh
