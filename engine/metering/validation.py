"""The judge of readings: one meter's memory, what the tables know of its past, and a reading give a verdict.

A signature is checked before anything here: what nobody signed must not move a counter. Checks are made in the order of
`ReadingCode`. Nothing changes unless the reading is accepted, and then all of it at once.
"""

from collections.abc import Iterable
from typing import Final, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from engine.metering.readings import COUNTER_MAX, DURATION_S_MAX, Flag, Interval, Reading, ReadingCode, Register, Stored
from engine.metering.windows import WINDOW_US, Adjustment, Portion, Windows, split, window_of
from engine.units import FOREVER_US, SECOND_US, EnergyWh, TimeUs

FUTURE_US_MAX: Final = 60 * SECOND_US
AGE_US_MAX: Final = 7 * 86_400 * SECOND_US
READING_WH_MAX: Final = 100_000  # of an interval reading, and of each day that a register's difference spans
DAY_US: Final = 86_400 * SECOND_US
PEAK_DAYS: Final = 30
PEAK_DAYS_MIN: Final = 3  # of knowing a meter before anything looks odd
SPIKE_FACTOR: Final = 3
_HOUR_US: Final = 3_600 * SECOND_US


class Meter(Struct, gc=False):
    """What is kept in memory of one meter, whatever its past: some numbers, its open windows, 30 daily peaks."""

    number: int
    rated_power_w: int
    register_wh_max: EnergyWh  # the highest total that the register shows before it starts again at 0
    windows: Windows
    device: int = 1
    counter: int = -1  # the last one accepted from this device
    end_us: TimeUs = 0  # the watermark: end of the latest interval, by the meter's own time
    heard_us: TimeUs = 0  # when the last one was accepted, by our time
    register: Stored | None = None  # the last register reading of this device
    peaks: dict[int, int] = field(default_factory=dict)  # day since 1970 -> highest average power in W

    def is_cold(self, reading: Reading) -> bool:
        """Does the verdict depend on what only the tables know?"""
        if reading.counter <= self.counter or reading.corrects is not None:
            return True
        if isinstance(reading, Interval):
            return reading.start_us < self.end_us
        return self.register is not None and self.register.end_us < self.end_us


class Accepted(Struct, frozen=True):
    """The reading to be kept, and what it changes about windows that are closed."""

    stored: Stored
    adjustments: list[Adjustment]


class Duplicate(Struct, frozen=True):
    """The very reading was accepted before: a success, without a second effect."""


class Rejected(Struct, frozen=True):
    code: ReadingCode
    detail: str


Verdict: TypeAlias = Accepted | Duplicate | Rejected


class Past:
    """What is known of the earlier readings of the meters of a batch: the tables' rows for what is cold, then the
    batch's own as they are accepted.
    """

    def __init__(self, rows: Iterable[Stored] = ()) -> None:
        self._by_counter: dict[tuple[int, int, int], Stored] = {}
        self._corrected: set[tuple[int, int, int]] = set()
        self._by_meter: dict[int, list[Stored]] = {}
        self._new = list(rows)  # put in their places when somebody asks; most of the time nobody does
        self.add = self._new.append

    def _sort(self) -> None:
        for row in self._new:
            self._place(row)
        self._new.clear()

    def _place(self, row: Stored) -> None:
        key = (row.meter, row.device, row.counter)
        if key in self._by_counter:
            return
        self._by_counter[key] = row
        self._by_meter.setdefault(row.meter, []).append(row)
        if row.corrects is not None:
            self._corrected.add((row.meter, row.device, row.corrects))

    def of(self, meter: Meter, counter: int) -> Stored | None:
        self._sort()
        return self._by_counter.get((meter.number, meter.device, counter))

    def is_corrected(self, row: Stored) -> bool:
        self._sort()
        return (row.meter, row.device, row.counter) in self._corrected

    def overlaps(self, meter: Meter, start_us: TimeUs, end_us: TimeUs) -> bool:
        """Is there an interval, of whatever device of the meter, that shares some time with this one?"""
        self._sort()
        return any(row.start_us < end_us and row.end_us > start_us for row in self._by_meter.get(meter.number, ()))


def flaw(reading: Reading) -> str:
    """Which field can mean nothing, or the empty string: nothing else may be asked about such a reading."""
    if not 0 <= reading.counter <= COUNTER_MAX:
        return f"counter: must be 0 to {COUNTER_MAX}"
    if reading.corrects is not None and not 0 <= reading.corrects <= COUNTER_MAX:
        return f"corrects: must be 0 to {COUNTER_MAX}"
    if isinstance(reading, Register):
        return "" if 0 <= reading.at_us <= FOREVER_US else "at: there is no such time"
    if not 1 <= reading.duration_s <= DURATION_S_MAX:
        return f"duration_s: must be 1 to {DURATION_S_MAX}"
    return "" if 0 <= reading.start_us <= FOREVER_US else "start: there is no such time"


def judge(meter: Meter, reading: Reading, past: Past, now_us: TimeUs) -> Verdict:
    """The verdict on a reading whose signature is good and that has no flaw; an accepted one is counted in at once.

    `past` holds what the tables know if the reading `is_cold`, and everything accepted since.
    """
    if reading.counter <= meter.counter:  # else nothing of this device can have it
        known = past.of(meter, reading.counter)
        if known is not None and known.says(reading):
            return Duplicate()
        return Rejected(ReadingCode.COUNTER_REPLAYED, f"the counter must be above {meter.counter}")
    if isinstance(reading, Register):
        return _judge_register(meter, reading, past, now_us)
    return _judge_interval(meter, reading, past, now_us)


def _judge_interval(meter: Meter, reading: Interval, past: Past, now_us: TimeUs) -> Verdict:
    corrected = None
    if reading.corrects is not None:
        corrected = past.of(meter, reading.corrects)
        if corrected is None or corrected.import_register_wh is not None or past.is_corrected(corrected):
            return Rejected(ReadingCode.NOTHING_TO_CORRECT, "no interval reading in force has this counter")
        if (corrected.start_us, corrected.end_us) != (reading.start_us, reading.end_us):
            return Rejected(ReadingCode.NOTHING_TO_CORRECT, "a correction has the interval of what it corrects")
    length_us = reading.duration_s * SECOND_US
    refused = _out_of_range(meter, reading.import_wh, reading.export_wh, length_us, READING_WH_MAX)
    refused = refused or _out_of_time(reading.start_us, reading.start_us, now_us)
    if refused is not None:
        return refused
    end_us = reading.start_us + length_us
    if corrected is None and reading.start_us < meter.end_us and past.overlaps(meter, reading.start_us, end_us):
        return Rejected(ReadingCode.OVERLAPS, "an accepted reading covers some of this time")
    flags = Flag.CORRECTION.value if corrected is not None else 0
    stored = Stored(  # by their places, which is twice as fast, and this is where most readings come by
        meter.number,
        meter.device,
        reading.counter,
        reading.start_us,
        end_us,
        reading.import_wh,
        reading.export_wh,
        reading.corrects,
        None,
        None,
        flags,
        now_us,
    )
    return _accept(meter, stored, corrected, past)


def _judge_register(meter: Meter, reading: Register, past: Past, now_us: TimeUs) -> Verdict:
    """The difference to the register reading before; the first one of a device says only where it begins."""
    totals = (reading.import_register_wh, reading.export_register_wh)
    if reading.corrects is not None:
        return _correct_register(meter, reading, totals, past, now_us)
    if not _fit(meter, totals):
        return Rejected(ReadingCode.OUT_OF_RANGE, f"the register shows 0 to {meter.register_wh_max} Wh")
    before, flags = meter.register, 0
    if before is None or reading.at_us - before.end_us > AGE_US_MAX:  # too far apart to say when what flowed
        start_us, energies, flags = reading.at_us, (0, 0), int(Flag.BASELINE)
        refused = _out_of_time(reading.at_us, reading.at_us, now_us)
    else:
        start_us = before.end_us
        refused = _out_of_time(reading.at_us, reading.at_us, now_us)
        if refused is None and reading.at_us <= start_us:
            refused = Rejected(ReadingCode.OVERLAPS, "a register is read forwards in time")
        if refused is None:
            length_us = reading.at_us - start_us
            energies, rolled, refused = _difference(meter, before, totals, length_us)
            flags = int(Flag.ROLLED_OVER) if rolled else 0
    if refused is not None:
        return refused
    if reading.at_us > start_us and start_us < meter.end_us and past.overlaps(meter, start_us, reading.at_us):
        return Rejected(ReadingCode.OVERLAPS, "an accepted reading covers some of this time")
    stored = Stored(
        meter=meter.number,
        device=meter.device,
        counter=reading.counter,
        start_us=start_us,
        end_us=reading.at_us,
        import_wh=energies[0],
        export_wh=energies[1],
        corrects=None,
        import_register_wh=reading.import_register_wh,
        export_register_wh=reading.export_register_wh,
        flags=flags,
        received_us=now_us,
    )
    return _accept(meter, stored, None, past)


def _correct_register(meter: Meter, reading: Register, totals: tuple[int, int], past: Past, now_us: TimeUs) -> Verdict:
    """Another total for the last reading of the register, at the same instant. One before it is right in sum already:
    what it showed too much, the next one showed too little.
    """
    last = meter.register
    if last is None or last.counter != reading.corrects:
        return Rejected(ReadingCode.NOTHING_TO_CORRECT, "only the last reading of a register can be corrected")
    if last.end_us != reading.at_us:
        return Rejected(ReadingCode.NOTHING_TO_CORRECT, "a correction has the instant of what it corrects")
    if not _fit(meter, totals):
        return Rejected(ReadingCode.OUT_OF_RANGE, f"the register shows 0 to {meter.register_wh_max} Wh")
    energies, flags = (0, 0), int(Flag.CORRECTION)
    refused = _out_of_time(reading.at_us, reading.at_us, now_us)
    if refused is None and last.flags & Flag.BASELINE:
        flags |= Flag.BASELINE
    elif refused is None:
        energies, rolled, refused = _difference(meter, _before(meter, last), totals, last.end_us - last.start_us)
        flags |= Flag.ROLLED_OVER if rolled else 0
    if refused is not None:
        return refused
    stored = replace(
        last,
        counter=reading.counter,
        import_wh=energies[0],
        export_wh=energies[1],
        corrects=last.counter,
        import_register_wh=totals[0],
        export_register_wh=totals[1],
        flags=flags,
        received_us=now_us,
    )
    return _accept(meter, stored, last, past)


def _fit(meter: Meter, totals: tuple[int, int]) -> bool:
    return all(0 <= total <= meter.register_wh_max for total in totals)


def _before(meter: Meter, last: Stored) -> Stored:
    """What the register showed when the interval of its last reading began."""
    assert last.import_register_wh is not None
    assert last.export_register_wh is not None
    size = meter.register_wh_max + 1
    return replace(
        last,
        import_register_wh=(last.import_register_wh - last.import_wh) % size,
        export_register_wh=(last.export_register_wh - last.export_wh) % size,
    )


def _difference(
    meter: Meter, before: Stored, totals: tuple[int, int], length_us: int
) -> tuple[tuple[int, int], bool, Rejected | None]:
    """(energies, whether a register started again at 0, why it cannot be)."""
    assert before.import_register_wh is not None
    assert before.export_register_wh is not None
    wh_max = READING_WH_MAX * -(-length_us // DAY_US)
    energies, rolled = [], False
    for total, earlier in zip(totals, (before.import_register_wh, before.export_register_wh), strict=True):
        energy = total - earlier
        if energy < 0:
            energy += meter.register_wh_max + 1
            if _out_of_range(meter, energy, 0, length_us, wh_max) is not None:
                return (0, 0), False, Rejected(ReadingCode.REGISTER_BACKWARDS, "a register ran backwards")
            rolled = True
        energies.append(energy)
    pair = (energies[0], energies[1])
    return pair, rolled, _out_of_range(meter, *pair, length_us, wh_max)


def _out_of_range(meter: Meter, import_wh: int, export_wh: int, length_us: int, wh_max: int) -> Rejected | None:
    # rated power x duration x 1.1, multiplied out so that nothing is rounded: W x us x 11 <-> Wh x us/h x 10
    for energy_wh in (import_wh, export_wh):
        if energy_wh < 0:
            return Rejected(ReadingCode.OUT_OF_RANGE, "energy is not negative")
        if energy_wh > wh_max:
            return Rejected(ReadingCode.OUT_OF_RANGE, f"more than {wh_max} Wh")
        if energy_wh * _HOUR_US * 10 > meter.rated_power_w * length_us * 11:
            return Rejected(ReadingCode.OUT_OF_RANGE, "more than the meter's rated power can be, and a tenth")
    return None


def _out_of_time(start_us: TimeUs, oldest_us: TimeUs, now_us: TimeUs) -> Rejected | None:
    if start_us > now_us + FUTURE_US_MAX:
        return Rejected(ReadingCode.IN_FUTURE, "more than 60 s in the future")
    if oldest_us < now_us - AGE_US_MAX:
        return Rejected(ReadingCode.TOO_OLD, "older than 7 days")
    return None


def _accept(meter: Meter, stored: Stored, corrected: Stored | None, past: Past) -> Accepted:
    flags = stored.flags
    if stored.end_us - stored.start_us > WINDOW_US:
        flags |= Flag.PRORATED.value
    if is_spike(meter, stored.start_us, stored.end_us - stored.start_us, max(stored.import_wh, stored.export_wh)):
        flags |= Flag.SUSPECT.value
    if flags != stored.flags:
        stored = replace(stored, flags=flags)
    portions = _portions(stored, corrected)
    adjustments = [_adjustment(stored, portion) for portion in portions if not meter.windows.add(portion)]
    past.add(stored)
    meter.counter = stored.counter
    if stored.end_us > meter.end_us:
        meter.end_us = stored.end_us
    meter.heard_us = stored.received_us
    if stored.import_register_wh is not None:
        meter.register = stored
    return Accepted(stored, adjustments)


def _adjustment(stored: Stored, late: Portion) -> Adjustment:
    return Adjustment(stored.meter, late.start_us, stored.device, stored.counter, late.import_wh, late.export_wh)


def _portions(stored: Stored, corrected: Stored | None) -> list[Portion]:
    window_us = window_of(stored.start_us)
    if corrected is None and stored.start_us < stored.end_us <= window_us + WINDOW_US:  # nothing to split
        return [Portion(window_us, stored.import_wh, stored.export_wh, stored.end_us - stored.start_us)]
    portions = list(split(stored.start_us, stored.end_us, stored.import_wh, stored.export_wh))
    if corrected is None:
        return portions
    before = split(corrected.start_us, corrected.end_us, corrected.import_wh, corrected.export_wh)
    return [
        Portion(new.start_us, new.import_wh - old.import_wh, new.export_wh - old.export_wh, 0)
        for new, old in zip(portions, before, strict=True)
    ]


def wh_max_of(meter: Meter, length_us: int) -> EnergyWh:
    """The most that an interval reading of this length may say."""
    return min(READING_WH_MAX, meter.rated_power_w * length_us * 11 // (_HOUR_US * 10))


def spike_free_wh(meter: Meter, start_us: TimeUs, length_us: int) -> int:
    """So much is nothing new on this day, and `is_spike` need not be asked; -1: everything is."""
    return ((meter.peaks.get(start_us // DAY_US, -1) + 1) * length_us - 1) // _HOUR_US


def is_spike(meter: Meter, start_us: TimeUs, length_us: int, energy_wh: EnergyWh) -> bool:
    """Above three times the highest of the last 30 days, of a meter known for three; remembers this one's height."""
    if not length_us:
        return False
    power_w = energy_wh * _HOUR_US // length_us
    day = start_us // DAY_US
    if power_w <= meter.peaks.get(day, -1):
        return False  # the day has seen as much already
    known = [peak for one, peak in meter.peaks.items() if day - PEAK_DAYS <= one <= day]
    first = min(meter.peaks, default=day)
    spike = day - first >= PEAK_DAYS_MIN and power_w > SPIKE_FACTOR * max(known, default=power_w)
    meter.peaks[day] = max(power_w, meter.peaks.get(day, 0))
    if len(meter.peaks) > PEAK_DAYS + 1:
        del meter.peaks[min(meter.peaks)]
    return spike
