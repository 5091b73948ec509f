"""What a meter says, byte for byte: the two forms of a reading, what a signature covers, and the verdicts.

The byte layouts are a public contract (docs/metering.md): integers are little-endian, and every field is covered.
"""

import hashlib
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, TypeAlias

from msgspec import Struct

from engine.units import SECOND_US, EnergyWh, TimeUs

METER_ID_BYTES: Final = 16
COUNTER_MAX: Final = 2**63 - 1  # what the tables keep of the u64 that is signed
DURATION_S_MAX: Final = 86_400  # of one interval reading
SLOTS: Final = 64  # meters fall into these by their id, and slots onto shards: a slot has one owner at a time

_INTERVAL: Final = struct.Struct("<16sQqIqq")
_REGISTER: Final = struct.Struct("<16sQqqq")
_COUNTER: Final = struct.Struct("<Q")
_COUNT: Final = struct.Struct("<I")


class Interval(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The energy of one interval. Import and export may be anything here: the judge says what is out of range."""

    meter_id: bytes
    counter: int
    start_us: TimeUs
    duration_s: int
    import_wh: int
    export_wh: int
    corrects: int | None = None  # the counter of the reading that this one puts right

    @property
    def end_us(self) -> TimeUs:
        return self.start_us + self.duration_s * SECOND_US


class Register(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The running totals at an instant; the interval is the difference to the reading before."""

    meter_id: bytes
    counter: int
    at_us: TimeUs
    import_register_wh: int
    export_register_wh: int
    corrects: int | None = None


Reading: TypeAlias = Interval | Register


class ReadingCode(IntEnum):
    """Why a reading does not count, in order of precedence. A number is never reused."""

    MALFORMED = 2001
    UNKNOWN_METER = 2002
    BAD_SIGNATURE = 2003
    COUNTER_REPLAYED = 2004
    NOTHING_TO_CORRECT = 2005
    NOT_TRUSTWORTHY = 2006
    OUT_OF_RANGE = 2007
    IN_FUTURE = 2008
    TOO_OLD = 2009
    OVERLAPS = 2010
    REGISTER_BACKWARDS = 2011


class Flag(IntEnum):
    """What is remarkable about an accepted reading; bits that add up."""

    PRORATED = 1  # longer than a window, so split evenly
    SUSPECT = 2  # far above everything of the last 30 days
    BASELINE = 4  # a register's first word, without energy
    ROLLED_OVER = 8
    CORRECTION = 16


def signed_bytes(reading: Reading) -> bytes:
    """What the meter's key signs. Raises struct.error for what does not fit the layout."""
    match reading:
        case Interval():
            content = b"wattbook-reading-v1" + _INTERVAL.pack(
                reading.meter_id,
                reading.counter,
                reading.start_us,
                reading.duration_s,
                reading.import_wh,
                reading.export_wh,
            )
        case Register():
            content = b"wattbook-register-v1" + _REGISTER.pack(
                reading.meter_id,
                reading.counter,
                reading.at_us,
                reading.import_register_wh,
                reading.export_register_wh,
            )
    return content if reading.corrects is None else content + _COUNTER.pack(reading.corrects)


def batch_bytes(key_id: bytes, batch_id: bytes, readings: Iterable[Reading]) -> bytes:
    """What a head-end signs for a whole batch. Raises struct.error for a reading that does not fit the layout."""
    signed = [signed_bytes(reading) for reading in readings]
    return batch_message(key_id, batch_id, len(signed), b"".join(signed))


def batch_message(key_id: bytes, batch_id: bytes, count: int, signed: bytes) -> bytes:
    """The same, of so many readings whose bytes are one after the other."""
    return b"wattbook-batch-v1" + key_id + batch_id + _COUNT.pack(count) + hashlib.sha256(signed).digest()


def slot_of(meter_id: bytes) -> int:
    """The slot of a meter; `slot % shards` is the shard that has it."""
    return meter_id[0] % SLOTS


def canonical_serial(text: str) -> str:
    """One meter has one serial, however it is spelled: upper case, without spaces and dashes."""
    return "".join(text.split()).replace("-", "").upper()


class Stored(Struct, frozen=True, array_like=True, gc=False):
    """An accepted reading as it is kept: whatever its form was, it has an interval and that interval's energy.

    device: of the meter, because an exchanged device counts from the beginning. A baseline has an empty interval.
    """

    meter: int
    device: int
    counter: int
    start_us: TimeUs
    end_us: TimeUs
    import_wh: EnergyWh
    export_wh: EnergyWh
    corrects: int | None
    import_register_wh: EnergyWh | None
    export_register_wh: EnergyWh | None
    flags: int
    received_us: TimeUs

    def says(self, reading: Reading) -> bool:
        """Is it this reading that was accepted?"""
        if isinstance(reading, Interval):
            return (
                self.import_register_wh is None
                and (self.start_us, self.end_us) == (reading.start_us, reading.end_us)
                and (self.import_wh, self.export_wh) == (reading.import_wh, reading.export_wh)
                and self.corrects == reading.corrects
            )
        return (
            self.end_us == reading.at_us
            and self.import_register_wh == reading.import_register_wh
            and self.export_register_wh == reading.export_register_wh
            and self.corrects == reading.corrects
        )
