"""Rates by which energy is valued: each holds from an instant until its next value.

An hour of energy has the rate that holds when it begins, and so has an epoch of trades.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from engine.units import WH_PER_KWH, EnergyWh, TimeUs

RETAIL: Final = "retail_price"  # micro-currency per kWh from the grid
FEED_IN: Final = "feed_in_price"  # micro-currency per kWh to the grid
EMISSION: Final = "emission_factor"  # mg of CO2e per kWh from the grid
NAMES: Final = (RETAIL, FEED_IN, EMISSION)


class Rate(Struct, frozen=True):
    name: str
    valid_from_us: TimeUs
    value: int


class Rates:
    """All values that matter to a period: those inside it, and the one before."""

    def __init__(self, rates: Iterable[Rate]) -> None:
        self._instants: dict[str, list[TimeUs]] = {name: [] for name in NAMES}
        self._values: dict[str, list[int]] = {name: [] for name in NAMES}
        for rate in sorted(rates, key=lambda one: one.valid_from_us):
            self._instants[rate.name].append(rate.valid_from_us)
            self._values[rate.name].append(rate.value)

    def at(self, name: str, instant_us: TimeUs) -> int | None:
        """None: no value was known yet."""
        place = bisect_right(self._instants[name], instant_us)
        return self._values[name][place - 1] if place else None

    def cuts(self, from_us: TimeUs, to_us: TimeUs) -> list[TimeUs]:
        """Every instant of the period at which a rate changes."""
        found = {instant for instants in self._instants.values() for instant in instants}
        return sorted(instant for instant in found if from_us < instant < to_us)

    def worth(self, name: str, parts: Sequence[tuple[TimeUs, EnergyWh]]) -> int | None:
        """The energy of all parts at the rates that hold when they start; one division, rounded down.

        Micro-currency, or mg. None when a part has no rate.
        """
        total = 0
        for start_us, energy_wh in parts:
            rate = self.at(name, start_us)
            if rate is None and energy_wh:
                return None
            total += energy_wh * (rate or 0)
        return total // WH_PER_KWH
