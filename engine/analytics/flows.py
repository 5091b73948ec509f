"""Power from energy, and how much of one's own energy one has used oneself.

Self-consumption is what is generated and consumed in the same quarter of an hour, by all meters of a participant
together: min(export, import) of each window. Its share of what he generated is his self-consumption, its share of what
he consumed his self-sufficiency. Source: domain.md, section 6; the usual definition, by settlement period.
"""

from collections.abc import Iterable

from msgspec import Struct

from engine.analytics.series import Flow, share_bps
from engine.units import EnergyWh

_HOUR_SECONDS = 3_600


class SelfConsumption(Struct, frozen=True):
    """Shares are basis points, None of nothing."""

    generated_wh: EnergyWh
    consumed_wh: EnergyWh
    self_consumed_wh: EnergyWh
    self_consumption_bps: int | None
    self_sufficiency_bps: int | None


def power_w(energy_wh: EnergyWh, seconds: int) -> int:
    """The average power of so much energy in so many seconds, rounded down."""
    return energy_wh * _HOUR_SECONDS // seconds


def self_consumption(windows: Iterable[Flow]) -> SelfConsumption:
    """Of windows of 900 s, each of all meters together."""
    generated = consumed = both = 0
    for window in windows:
        generated += window.export_wh
        consumed += window.import_wh
        both += min(window.export_wh, window.import_wh)
    return SelfConsumption(generated, consumed, both, share_bps(both, generated), share_bps(both, consumed))
