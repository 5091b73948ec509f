"""The judge: every verdict of the table, in its order. Seen to fail for: a replay with other contents taken for a
duplicate, an overlap missed, a correction of a correction's original, a roll-over without a bound."""

import pytest

from engine.metering.readings import Flag, Interval, Reading, ReadingCode, Register
from engine.metering.validation import (
    AGE_US_MAX,
    DAY_US,
    FUTURE_US_MAX,
    Accepted,
    Duplicate,
    Meter,
    Past,
    Rejected,
    judge,
)
from engine.metering.windows import WINDOW_US, Windows
from engine.units import SECOND_US

ID = bytes(16)
NOW_US = 1_700_000_000_000_000 // WINDOW_US * WINDOW_US
RATED_W = 10_000


class Bench:
    """One meter and all that it has said."""

    def __init__(self) -> None:
        self.meter = Meter(1, RATED_W, 999_999, Windows(1))
        self.past = Past()

    def give(self, reading: Reading, now_us: int = NOW_US) -> ReadingCode | Accepted | Duplicate:
        verdict = judge(self.meter, reading, self.past, now_us)
        return verdict.code if isinstance(verdict, Rejected) else verdict

    def taken(self, reading: Reading, now_us: int = NOW_US) -> Accepted:
        verdict = self.give(reading, now_us)
        assert isinstance(verdict, Accepted), verdict
        return verdict


def interval(counter: int, start_us: int = NOW_US - WINDOW_US, export_wh: int = 100, **more: int) -> Interval:
    return Interval(ID, counter, start_us, more.pop("duration_s", 900), more.pop("import_wh", 0), export_wh, **more)


def register(counter: int, at_us: int, export_wh: int, import_wh: int = 0) -> Register:
    return Register(ID, counter, at_us, import_wh, export_wh)


def test_zero_is_a_valid_value_and_a_valid_counter() -> None:
    assert Bench().taken(interval(0, export_wh=0)).stored.export_wh == 0


def test_the_same_reading_again_is_a_duplicate_and_counts_once() -> None:
    bench = Bench()
    bench.taken(interval(5))

    assert isinstance(bench.give(interval(5)), Duplicate)
    assert sum(one.export_wh for one in bench.meter.windows.open.values()) == 100


@pytest.mark.parametrize("reading", [interval(5, export_wh=101), interval(4), interval(5, import_wh=1)])
def test_another_reading_with_a_used_counter_is_a_replay(reading: Interval) -> None:
    bench = Bench()
    bench.taken(interval(5))

    assert bench.give(reading) is ReadingCode.COUNTER_REPLAYED


def test_a_refused_reading_burns_no_counter() -> None:
    bench = Bench()
    bench.give(interval(9, export_wh=-1))

    bench.taken(interval(1))


def test_power_is_bounded_by_the_rated_power_and_a_tenth() -> None:
    assert Bench().give(interval(1, export_wh=2_751)) is ReadingCode.OUT_OF_RANGE
    Bench().taken(interval(1, export_wh=2_750))
    assert Bench().give(interval(1, import_wh=-1)) is ReadingCode.OUT_OF_RANGE


def test_no_reading_has_more_than_100_kwh() -> None:
    bench = Bench()
    bench.meter.rated_power_w = 10**9

    assert bench.give(interval(1, export_wh=100_001)) is ReadingCode.OUT_OF_RANGE
    bench.taken(interval(1, export_wh=100_000))


def test_a_reading_starts_at_most_60_s_in_the_future_and_7_days_ago() -> None:
    assert Bench().give(interval(1, NOW_US + FUTURE_US_MAX + 1)) is ReadingCode.IN_FUTURE
    Bench().taken(interval(1, NOW_US + FUTURE_US_MAX))
    assert Bench().give(interval(1, NOW_US - AGE_US_MAX - 1)) is ReadingCode.TOO_OLD
    Bench().taken(interval(1, NOW_US - AGE_US_MAX))


def test_time_is_counted_once() -> None:
    bench = Bench()
    bench.taken(interval(1, NOW_US - 2 * WINDOW_US))

    assert bench.give(interval(2, NOW_US - 2 * WINDOW_US + SECOND_US)) is ReadingCode.OVERLAPS
    bench.taken(interval(3, NOW_US - WINDOW_US))
    bench.taken(interval(4, NOW_US - 3 * WINDOW_US))  # between what is there, and beside it


def test_a_correction_stands_beside_what_it_corrects() -> None:
    bench = Bench()
    bench.taken(interval(1, export_wh=100))

    accepted = bench.taken(interval(2, export_wh=70, corrects=1))

    assert accepted.stored.flags & Flag.CORRECTION
    assert sum(one.export_wh for one in bench.meter.windows.open.values()) == 70
    assert bench.give(interval(3, export_wh=50, corrects=1)) is ReadingCode.NOTHING_TO_CORRECT
    bench.taken(interval(4, export_wh=50, corrects=2))


@pytest.mark.parametrize("wrong", [interval(2, corrects=7), interval(2, NOW_US - 2 * WINDOW_US, corrects=1)])
def test_a_correction_needs_what_it_corrects(wrong: Interval) -> None:
    bench = Bench()
    bench.taken(interval(1))

    assert bench.give(wrong) is ReadingCode.NOTHING_TO_CORRECT


def test_a_correction_of_a_closed_window_is_an_adjustment_by_the_difference() -> None:
    bench = Bench()
    bench.taken(interval(1, NOW_US - 3 * WINDOW_US, export_wh=100))
    bench.meter.windows.close_due(NOW_US, NOW_US, NOW_US)

    adjustments = bench.taken(interval(2, NOW_US - 3 * WINDOW_US, export_wh=70, corrects=1)).adjustments

    assert [(one.start_us, one.export_wh) for one in adjustments] == [(NOW_US - 3 * WINDOW_US, -30)]


def test_a_register_gives_differences() -> None:
    bench = Bench()

    first = bench.taken(register(1, NOW_US - 2 * WINDOW_US, 5_000)).stored
    second = bench.taken(register(2, NOW_US - WINDOW_US, 5_250, 10)).stored

    assert (first.export_wh, first.flags) == (0, Flag.BASELINE)
    assert (second.export_wh, second.import_wh, second.start_us) == (250, 10, NOW_US - 2 * WINDOW_US)


def test_a_register_rolls_over_and_does_not_run_backwards() -> None:
    bench = Bench()
    bench.taken(register(1, NOW_US - 2 * WINDOW_US, 999_900))

    assert bench.give(register(2, NOW_US - WINDOW_US, 999_000)) is ReadingCode.REGISTER_BACKWARDS
    rolled = bench.taken(register(3, NOW_US - WINDOW_US, 150)).stored
    assert (rolled.export_wh, rolled.flags) == (250, Flag.ROLLED_OVER)


def test_an_exchanged_device_begins_anew() -> None:
    bench = Bench()
    bench.taken(register(50, NOW_US - 2 * WINDOW_US, 5_000))
    bench.meter.device, bench.meter.counter, bench.meter.register = 2, -1, None

    stored = bench.taken(register(1, NOW_US - WINDOW_US, 3)).stored

    assert (stored.device, stored.export_wh, stored.flags) == (2, 0, Flag.BASELINE)


def test_a_register_that_was_away_for_weeks_begins_anew() -> None:
    bench = Bench()
    bench.taken(register(1, NOW_US - DAY_US, 0))

    assert bench.taken(register(2, NOW_US + 7 * DAY_US, 5_000), NOW_US + 7 * DAY_US).stored.export_wh == 0


def test_a_spike_is_accepted_and_flagged_from_the_third_day_on() -> None:
    bench = Bench()
    for day in range(4):
        at = NOW_US - (4 - day) * DAY_US
        flags = bench.taken(interval(2 * day, at, export_wh=100)).stored.flags
        assert not flags & Flag.SUSPECT
        if day < 3:
            continue
        assert not bench.taken(interval(2 * day + 1, at + WINDOW_US, export_wh=300)).stored.flags & Flag.SUSPECT
    assert bench.taken(interval(20, export_wh=901)).stored.flags & Flag.SUSPECT


def test_only_what_the_tables_know_is_asked_of_them() -> None:
    bench = Bench()
    bench.taken(interval(5, NOW_US - 2 * WINDOW_US))

    assert not bench.meter.is_cold(interval(6, NOW_US - WINDOW_US))
    assert bench.meter.is_cold(interval(5, NOW_US - WINDOW_US))
    assert bench.meter.is_cold(interval(6, NOW_US - 3 * WINDOW_US))
    assert bench.meter.is_cold(interval(6, NOW_US - WINDOW_US, corrects=5))


def test_the_last_reading_of_a_register_can_be_put_right() -> None:
    # 1,000 -> 1,250 said 250 Wh; it was 1,180, so 180 Wh, and the next difference counts from there
    bench = Bench()
    bench.taken(register(1, NOW_US - 2 * WINDOW_US, 1_000))
    bench.taken(register(2, NOW_US - WINDOW_US, 1_250))

    fixed = bench.taken(Register(ID, 3, NOW_US - WINDOW_US, 0, 1_180, corrects=2)).stored
    following = bench.taken(register(4, NOW_US, 1_200)).stored

    assert (fixed.start_us, fixed.end_us, fixed.export_wh) == (NOW_US - 2 * WINDOW_US, NOW_US - WINDOW_US, 180)
    assert (fixed.corrects, fixed.flags) == (2, Flag.CORRECTION)
    assert following.export_wh == 20
    assert sum(one.export_wh for one in bench.meter.windows.open.values()) == 200


def test_a_corrected_register_may_have_rolled_over_or_be_a_baseline() -> None:
    bench = Bench()
    bench.taken(register(1, NOW_US - 2 * WINDOW_US, 999_000))

    first = bench.taken(Register(ID, 2, NOW_US - 2 * WINDOW_US, 0, 999_900, corrects=1)).stored
    bench.taken(register(3, NOW_US - WINDOW_US, 200))  # 999,900 -> 1,000,000 and 200 more: 300 Wh
    rolled = bench.taken(Register(ID, 4, NOW_US - WINDOW_US, 0, 999_950, corrects=3)).stored
    again = bench.taken(Register(ID, 5, NOW_US - WINDOW_US, 0, 100, corrects=4)).stored

    assert (first.export_wh, first.flags) == (0, Flag.CORRECTION | Flag.BASELINE)
    assert (rolled.export_wh, rolled.flags) == (50, Flag.CORRECTION)
    assert (again.export_wh, again.flags) == (200, Flag.CORRECTION | Flag.ROLLED_OVER)
    assert sum(one.export_wh for one in bench.meter.windows.open.values()) == 200


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (Register(ID, 4, NOW_US - WINDOW_US, 0, 1_180, corrects=1), ReadingCode.NOTHING_TO_CORRECT),
        (Register(ID, 4, NOW_US - WINDOW_US + 1, 0, 1_180, corrects=2), ReadingCode.NOTHING_TO_CORRECT),
        (Register(ID, 4, NOW_US - WINDOW_US, 0, 1_000_000, corrects=2), ReadingCode.OUT_OF_RANGE),
        (Register(ID, 4, NOW_US - WINDOW_US, 0, 999, corrects=2), ReadingCode.REGISTER_BACKWARDS),
        (Register(ID, 2, NOW_US - WINDOW_US, 0, 1_180, corrects=2), ReadingCode.COUNTER_REPLAYED),
    ],
)
def test_a_register_is_not_put_wrong(wrong: Register, code: ReadingCode) -> None:
    bench = Bench()
    bench.taken(register(1, NOW_US - 2 * WINDOW_US, 1_000))
    bench.taken(register(2, NOW_US - WINDOW_US, 1_250))

    assert bench.give(wrong) is code


def test_a_correction_of_a_closed_register_interval_is_an_adjustment() -> None:
    bench = Bench()
    bench.taken(register(1, NOW_US - 2 * WINDOW_US, 1_000))
    bench.taken(register(2, NOW_US - WINDOW_US, 1_250))
    bench.meter.windows.close_due(NOW_US, NOW_US, NOW_US)

    (adjustment,) = bench.taken(Register(ID, 3, NOW_US - WINDOW_US, 0, 1_180, corrects=2)).adjustments

    assert (adjustment.start_us, adjustment.export_wh) == (NOW_US - 2 * WINDOW_US, -70)
