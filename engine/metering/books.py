"""The books of a meter: its readings in force, split anew, must be what its windows and adjustments say, to the Wh."""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from msgspec import Struct

from engine.metering.windows import split
from engine.units import EnergyWh, TimeUs

Energies: TypeAlias = tuple[int, int]  # in, out


class AcknowledgedReading(Struct, frozen=True):
    """What a client was told that the exchange has."""

    meter_id: bytes
    counter: int
    start_us: TimeUs
    end_us: TimeUs
    import_wh: EnergyWh
    export_wh: EnergyWh
    corrects: int | None = None


class Measured(Struct, frozen=True):
    """A reading in force."""

    start_us: TimeUs
    end_us: TimeUs
    import_wh: EnergyWh
    export_wh: EnergyWh


class Booked(Struct, frozen=True):
    """A window with all of its adjustments. is_closed: measured energy has a row there, not adjustments alone."""

    import_wh: int
    export_wh: int
    is_closed: bool


class MeterBooks(Struct, frozen=True):
    """One meter; of windows before from_us readings may have been dropped."""

    meter: int
    from_us: TimeUs
    measured: list[Measured]
    booked: dict[TimeUs, Booked]


def differences(books: MeterBooks) -> Iterator[str]:
    """Each window whose energy is not that of its readings. What comes after the last closed one is still open."""
    expected = _windows(books.measured)
    closed_us = max((start_us for start_us, one in books.booked.items() if one.is_closed), default=-1)
    for start_us in sorted(expected.keys() | books.booked.keys()):
        there = books.booked.get(start_us)
        if start_us < books.from_us or (there is None and start_us > closed_us):
            continue
        said = expected.get(start_us, (0, 0))
        kept = (there.import_wh, there.export_wh) if there is not None else (0, 0)
        if said != kept:
            yield (
                f"window {start_us}: {said[0]} Wh in and {said[1]} out by its readings, "
                f"{kept[0]} and {kept[1]} with its adjustments"
            )


def _windows(readings: Iterable[Measured]) -> dict[TimeUs, Energies]:
    sums: dict[TimeUs, Energies] = {}
    for one in readings:
        for portion in split(one.start_us, one.end_us, one.import_wh, one.export_wh):
            import_wh, export_wh = sums.get(portion.start_us, (0, 0))
            sums[portion.start_us] = import_wh + portion.import_wh, export_wh + portion.export_wh
    return sums
