"""A participant's energy and money by day or month: one row for each step, empty ones too.

avoided = retired local energy x the grid's emission factor. Source: domain.md, section 6.
"""

from bisect import bisect_right
from collections.abc import Sequence

from msgspec import Struct

from engine.analytics.earnings import Earnings, earnings
from engine.analytics.rates import EMISSION, Rates
from engine.analytics.series import EnergyPart, TradePart
from engine.units import EnergyWh, TimeUs


class ReportRow(Struct, frozen=True):
    """From start to end, which does not count. avoided_mg: of CO2e, None where no factor was known."""

    start_us: TimeUs
    end_us: TimeUs
    generated_wh: EnergyWh
    consumed_wh: EnergyWh
    estimated_import_wh: EnergyWh
    estimated_export_wh: EnergyWh
    credited_wh: int
    retired_wh: EnergyWh
    avoided_mg: int | None
    trading: Earnings


def avoided_mg(parts: Sequence[EnergyPart], rates: Rates) -> int | None:
    """CO2e that local energy spared the grid; rounded down to a mg."""
    return rates.worth(EMISSION, [(part.start_us, part.retired_wh) for part in parts])


def report(
    edges_us: Sequence[TimeUs], energy: Sequence[EnergyPart], trades: Sequence[TradePart], rates: Rates
) -> list[ReportRow]:
    """A row from each edge to the next; every part must lie between the first and the last."""
    steps = range(len(edges_us) - 1)
    energies: list[list[EnergyPart]] = [[] for _ in steps]
    trading: list[list[TradePart]] = [[] for _ in steps]
    for part in energy:
        energies[bisect_right(edges_us, part.start_us) - 1].append(part)
    for traded in trades:
        trading[bisect_right(edges_us, traded.start_us) - 1].append(traded)
    return [_row(edges_us[step], edges_us[step + 1], energies[step], trading[step], rates) for step in steps]


def _row(
    start_us: TimeUs, end_us: TimeUs, energy: Sequence[EnergyPart], trades: Sequence[TradePart], rates: Rates
) -> ReportRow:
    return ReportRow(
        start_us,
        end_us,
        sum(part.export_wh for part in energy),
        sum(part.import_wh for part in energy),
        sum(part.import_estimated_wh for part in energy),
        sum(part.export_estimated_wh for part in energy),
        sum(part.credited_wh for part in energy),
        sum(part.retired_wh for part in energy),
        avoided_mg(energy, rates),
        earnings(trades, rates),
    )
