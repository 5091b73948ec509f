"""Windows: splitting, closing, estimation. Seen to fail for: no grace, silence ignored, an estimate that is counted as
measured, a closed window that takes more."""

from hypothesis import given
from hypothesis import strategies as st

from engine.metering.windows import GAP_US_MAX, GRACE_US, SILENCE_US, WINDOW_US, Portion, Windows, split

START_US = 1_700_000_100_000_000 // WINDOW_US * WINDOW_US
NOW_US = START_US + 100 * WINDOW_US


def windows_with(*places: int, energy: int = 100) -> Windows:
    windows = Windows(1)
    for place in places:
        assert windows.add(Portion(START_US + place * WINDOW_US, 0, energy, WINDOW_US))
    return windows


@given(st.integers(0, 3 * WINDOW_US), st.integers(1, 9 * WINDOW_US), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_parts_of_a_reading_are_the_whole(offset: int, length: int, import_wh: int, export_wh: int) -> None:
    portions = list(split(START_US + offset, START_US + offset + length, import_wh, export_wh))

    assert sum(one.import_wh for one in portions) == import_wh
    assert sum(one.export_wh for one in portions) == export_wh
    assert sum(one.covered_us for one in portions) == length
    assert all(one.import_wh >= 0 and one.export_wh >= 0 and one.covered_us > 0 for one in portions)
    assert [one.start_us for one in portions] == sorted({one.start_us for one in portions})


def test_a_long_reading_is_split_evenly() -> None:
    assert [one.import_wh for one in split(START_US, START_US + 4 * WINDOW_US, 100, 0)] == [25, 25, 25, 25]
    assert [one.import_wh for one in split(START_US, START_US + 3 * WINDOW_US, 100, 0)] == [33, 33, 34]


def test_a_window_waits_for_the_watermark_and_its_grace() -> None:
    windows, end_us = windows_with(0), START_US + WINDOW_US

    assert windows.close_due(end_us + GRACE_US - 1, NOW_US, NOW_US) == []
    assert [one.export_wh for one in windows.close_due(end_us + GRACE_US, NOW_US, NOW_US)] == [100]
    assert not windows.open


def test_a_clock_that_lags_keeps_its_windows_open_however_late_it_is() -> None:
    windows = windows_with(0)

    assert windows.close_due(START_US + WINDOW_US, NOW_US - SILENCE_US + 1, NOW_US) == []


def test_a_clock_that_is_ahead_closes_nothing_before_ours() -> None:
    windows, end_us = windows_with(0), START_US + WINDOW_US

    assert windows.close_due(end_us + 10 * WINDOW_US, end_us, end_us) == []


def test_silence_closes_what_is_open() -> None:
    windows = windows_with(0, 1)

    closed = windows.close_due(START_US + 2 * WINDOW_US, NOW_US - SILENCE_US, NOW_US)

    assert [one.start_us for one in closed] == [START_US, START_US + WINDOW_US]


def test_a_closed_window_takes_nothing_more() -> None:
    windows = windows_with(1)
    windows.close_due(NOW_US, NOW_US, NOW_US)

    assert not windows.add(Portion(START_US + WINDOW_US, 0, 5, 1))
    assert not windows.add(Portion(START_US, 0, 5, 1))
    assert windows.add(Portion(START_US + 2 * WINDOW_US, 0, 5, 1))


def test_a_gap_is_bridged_by_a_line_that_is_not_measured() -> None:
    windows = windows_with(0)
    windows.add(Portion(START_US + 4 * WINDOW_US, 40, 500, WINDOW_US))

    closed = windows.close_due(NOW_US, NOW_US, NOW_US)

    assert [one.export_estimated_wh for one in closed] == [0, 200, 300, 400, 0]
    assert [one.import_estimated_wh for one in closed] == [0, 10, 20, 30, 0]
    assert [one.export_wh for one in closed] == [100, 0, 0, 0, 500]
    assert [one.covered_us for one in closed[1:4]] == [0, 0, 0]


def test_two_hours_are_bridged_and_not_a_window_more() -> None:
    most = GAP_US_MAX // WINDOW_US

    assert len(windows_with(0, most + 1).close_due(NOW_US, NOW_US, NOW_US)) == most + 2
    assert len(windows_with(0, most + 2).close_due(NOW_US, NOW_US, NOW_US)) == 2
