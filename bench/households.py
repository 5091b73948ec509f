"""Households with real shapes: what each consumes and produces in every quarter of an hour of one day.

Consumption: the BDEW standard load profile H25 (households, 2025 revision), scaled to each home's year and shifted a
little. Production: pvlib's clear-sky irradiance on a tilted panel, times a cloud cover that drifts with the seed.
Powers are floats because physics is; what leaves here are whole watt-hours.
"""

import random
import warnings
from typing import Final

import pandas as pd
from msgspec import Struct

QUARTERS: Final = 96
DAY: Final = "2026-03-21"
PLACE: Final = (13.7563, 100.5018, "Asia/Bangkok", 5.0)  # Bangkok: latitude, longitude, time zone, altitude in m
_PERFORMANCE: Final = 0.8  # of the nominal power: inverter, temperature, dirt


class Home(Struct, frozen=True):
    """One household's day. consumed_wh and produced_wh: [96 quarters]; panel_kwp 0: no panels."""

    name: str
    annual_kwh: int
    panel_kwp: float
    consumed_wh: tuple[int, ...]
    produced_wh: tuple[int, ...]

    def surplus_wh(self, quarter: int) -> int:
        """What the home has left over in the quarter; negative when it needs more than it makes."""
        return self.produced_wh[quarter] - self.consumed_wh[quarter]


def homes(count: int, seed: int) -> list[Home]:
    """`count` households, every second with panels; the same for the same seed."""
    random_ = random.Random(seed)
    load, sun = _load_per_annual_kwh(), _sun_per_kwp(random_)
    found = []
    for number in range(count):
        annual_kwh = random_.randrange(2_000, 6_000, 100)
        panel_kwp = random_.randrange(30, 90) / 10 if number % 2 else 0.0
        shift = random_.randrange(-4, 5)  # people do not all rise at the same time
        consumed = tuple(
            round(annual_kwh * load[(quarter + shift) % QUARTERS] * random_.uniform(0.7, 1.3))
            for quarter in range(QUARTERS)
        )
        produced = tuple(round(panel_kwp * watt_hours * random_.uniform(0.95, 1.0)) for watt_hours in sun)
        found.append(Home(f"Home {number + 1}", annual_kwh, panel_kwp, consumed, produced))
    return found


def _load_per_annual_kwh() -> list[float]:
    """Wh in each quarter of the day for a home that uses 1 kWh a year."""
    from demandlib.bdew import H25

    quarters = pd.date_range(DAY, periods=QUARTERS, freq="15min")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # demandlib's own pandas idioms
        kilowatts = H25(quarters)  # for 1,000,000 kWh a year
    return [float(value) * 1_000 / 4 / 1_000_000 for value in kilowatts]


def _sun_per_kwp(random_: random.Random) -> list[float]:
    """Wh in each quarter per kWp of panels that face south at 15 degrees, under clouds that drift."""
    from pvlib.irradiance import get_total_irradiance
    from pvlib.location import Location

    latitude, longitude, zone, altitude = PLACE
    place = Location(latitude, longitude, tz=zone, altitude=altitude)
    quarters = pd.date_range(DAY, periods=QUARTERS, freq="15min", tz=zone) + pd.Timedelta("7min30s")
    sun, sky = place.get_solarposition(quarters), place.get_clearsky(quarters)
    on_panel = get_total_irradiance(
        15, 180, sun["apparent_zenith"], sun["azimuth"], sky["dni"], sky["ghi"], sky["dhi"]
    )["poa_global"].fillna(0.0)
    clouds, produced = random_.uniform(0.0, 0.3), []
    for watts_per_square_metre in on_panel:
        clouds = min(0.8, max(0.0, clouds + random_.uniform(-0.12, 0.12)))
        produced.append(float(watts_per_square_metre) / 1_000 * 1_000 / 4 * (1 - clouds) * _PERFORMANCE)
    return produced
