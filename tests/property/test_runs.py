"""A run comes to what one reading after the other comes to: verdicts, rows, windows, peaks, whatever is said.

Seen to fail for: a window that takes what it ended with twice, a day's peak that is looked up once a run, energy at
the very limit refused, a reading that spans two windows.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.metering.readings import Interval, Stored
from engine.metering.runs import SIGNED, Said, accept, interval_of, stored_of
from engine.metering.validation import Accepted, Meter, Past, flaw, judge, wh_max_of
from engine.metering.windows import WINDOW_US, Window, Windows
from engine.units import SECOND_US

ID = bytes(16)
DAY_US = 96 * WINDOW_US
NOW_US = 20_000 * DAY_US + 5 * WINDOW_US
RATED_W = 1_000


def meter() -> Meter:
    """Known for some days, with windows that are closed and one that is open."""
    known = Meter(7, RATED_W, 10**9, Windows(7), counter=10, end_us=NOW_US - 3 * DAY_US, peaks={19_990: 20, 19_997: 30})
    known.windows.closed_us = NOW_US - 3 * DAY_US - 2 * WINDOW_US
    known.windows.open[known.end_us - WINDOW_US] = Window(5, 6, 7)
    return known


@st.composite
def runs(draw: st.DrawFn) -> list[Said]:
    """What goes on in time, mostly; few lengths, energies around the limits, now and then anything at all."""
    at_us, counter, said = NOW_US - 3 * DAY_US - draw(st.sampled_from([0, 0, 60, 2_000])) * SECOND_US, 10, []
    lengths = draw(st.sampled_from([[60], [900], [60, 60, 60, 300, 900]]))
    for _ in range(draw(st.integers(1, 40))):
        seconds = draw(st.sampled_from(lengths))
        at_us += draw(st.sampled_from([0, 0, 0, 0, 60, 840, 3_600, 86_400])) * SECOND_US
        counter += draw(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 2, 0]))
        limit = RATED_W * seconds * 11 // 36_000
        energies = st.sampled_from([0, 0, 1, 2, 3, limit, limit, limit + 1] if draw(st.booleans()) else [0, 1])
        said.append((ID, counter, at_us, seconds, draw(energies), draw(energies)))
        at_us += seconds * SECOND_US
    if draw(st.integers(0, 4)) == 0:
        place, field = draw(st.integers(0, len(said) - 1)), draw(st.integers(1, 5))
        odd = draw(st.sampled_from([0, 1, 2**31, 2**63 - 1, 86_400]) if field != 3 else st.integers(0, 90_000))
        meter, *numbers = said[place]
        numbers[field - 1] = odd
        counter, start_us, seconds, import_wh, export_wh = numbers
        said[place] = meter, counter, start_us, seconds, import_wh, export_wh
    said.sort(key=lambda one: one[1])
    return said


def one_by_one(known: Meter, said: list[Said]) -> tuple[list[Stored], bool]:
    """What is accepted until the first that is not, and whether that one is there."""
    past, stored = Past(), list[Stored]()
    for one in map(interval_of, said):
        verdict = None if flaw(one) else judge(known, one, past, NOW_US)
        if not isinstance(verdict, Accepted):
            return stored, True
        assert not verdict.adjustments
        stored.append(verdict.stored)
    return stored, False


@settings(max_examples=300, deadline=None)
@given(runs())
def test_a_run_is_judged_as_its_readings_are(said: list[Said]) -> None:
    fast, slow = meter(), meter()

    run = accept(fast, said, NOW_US)
    usual = said[: len(run.kept)]
    stored, stopped = one_by_one(slow, usual)

    assert not stopped
    assert stored_of(run) == stored
    assert (fast.counter, fast.end_us, fast.peaks) == (slow.counter, slow.end_us, slow.peaks)
    assert fast.windows.open == slow.windows.open
    if len(usual) < len(said):  # what ended the run is nothing usual, or it would have gone on
        assert not is_usual(slow, interval_of(said[len(usual)]))


def is_usual(known: Meter, one: Interval) -> bool:
    """As the module says it, in other words."""
    windows = {one.start_us // WINDOW_US, (one.end_us - 1) // WINDOW_US}
    return (
        not flaw(one)
        and known.counter < one.counter
        and known.end_us <= one.start_us
        and len(windows) == 1
        and known.windows.closed_us <= min(windows) * WINDOW_US
        and max(one.import_wh, one.export_wh) <= wh_max_of(known, one.duration_s * SECOND_US)
        and min(one.import_wh, one.export_wh) >= 0
        and NOW_US - 7 * DAY_US <= one.start_us <= NOW_US + 60 * SECOND_US
    )


@given(st.integers(1, 10**6), st.sampled_from([1, 60, 900, 3_599, 86_400]))
def test_the_limit_is_the_judges(rated_w: int, seconds: int) -> None:
    known = Meter(7, rated_w, 10**9, Windows(7))
    limit = wh_max_of(known, seconds * SECOND_US)

    for energy_wh, good in ((limit, True), (limit + 1, False)):
        fresh = Meter(7, rated_w, 10**9, Windows(7))
        verdict = judge(fresh, Interval(ID, 1, NOW_US, seconds, energy_wh, 0), Past(), NOW_US)
        assert isinstance(verdict, Accepted) == good


def test_the_layout_is_that_of_what_is_signed() -> None:
    from engine.metering.readings import signed_bytes

    one = Interval(bytes(range(16)), 2**63, 3, 4, -5, 6)

    assert interval_of(SIGNED.unpack(signed_bytes(one))) == one
