"""What analytics are computed over, and how a share is rounded. Energies are Wh, money is micro-currency.

A series is cut where its steps begin and where a rate changes, so that one rate holds for the whole of each part.
"""

from msgspec import Struct

from engine.units import BPS, EnergyWh, MoneyMicro, TimeUs


class EnergyPart(Struct, frozen=True, gc=False):
    """What one participant's meters measured between one cut and the next; adjustments are counted in."""

    start_us: TimeUs
    import_wh: EnergyWh
    export_wh: EnergyWh
    import_estimated_wh: EnergyWh
    export_estimated_wh: EnergyWh
    credited_wh: int
    retired_wh: EnergyWh


class TradePart(Struct, frozen=True, gc=False):
    """What one participant traded between one cut and the next, by the epochs of his trades."""

    start_us: TimeUs
    bought_wh: EnergyWh
    sold_wh: EnergyWh
    paid_micro: MoneyMicro  # for what was bought, fees not counted
    received_micro: MoneyMicro
    fees_micro: MoneyMicro
    trades: int


class Flow(Struct, frozen=True, gc=False):
    """What all meters of one participant, or of one zone, measured in one step; largest_wh: by one owner's meters."""

    start_us: TimeUs
    import_wh: EnergyWh
    export_wh: EnergyWh
    meters: int = 0
    owners: int = 0
    largest_wh: EnergyWh = 0


def share_bps(part: int, whole: int) -> int | None:
    """Basis points, rounded down; None of nothing."""
    return part * BPS // whole if whole else None
