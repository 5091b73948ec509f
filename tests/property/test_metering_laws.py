"""Energy of readings is in one place, once, whatever becomes of deliveries.

Readings are delivered in any order, several times or never, between looks at what is due. At the end the measured
energy of closed windows, the adjustments and what is still open are the energy of the accepted readings, to the Wh, and
that of the newest correction of each.

Seen to fail for: a portion dropped when its window is closed, a correction counted beside what it corrects, a
closed window that takes more, a baseline that divides by its length. Not for: counters forgotten, because then the
overlap in time is refused.
"""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.metering.readings import Interval, Register, Stored
from engine.metering.validation import Accepted, Meter, Past, judge
from engine.metering.windows import WINDOW_US, Adjustment, Closing, Window, Windows
from engine.units import SECOND_US

BEGIN_US = 1_700_000_000_000_000 // WINDOW_US * WINDOW_US
ID = bytes(16)


@st.composite
def said(draw: st.DrawFn) -> list[Interval]:
    """What a meter says: intervals of odd lengths one after the other, some left out, some corrected later."""
    readings: list[Interval] = []
    at_us, counter = BEGIN_US + draw(st.integers(0, 1_000)) * SECOND_US, 1
    for _ in range(draw(st.integers(1, 12))):
        seconds = draw(st.sampled_from([60, 450, 900, 1_000, 3_600, 9_000]))
        export_wh = draw(st.integers(0, seconds // 2))
        readings.append(Interval(ID, counter, at_us, seconds, seconds // 7, export_wh))
        at_us, counter = at_us + (seconds + draw(st.sampled_from([0, 0, 30, 4_000]))) * SECOND_US, counter + 1
    for corrected in draw(st.lists(st.sampled_from(readings), max_size=3, unique_by=lambda one: one.counter)):
        readings.append(
            Interval(
                ID, counter, corrected.start_us, corrected.duration_s, 0, draw(st.integers(0, 30)), corrected.counter
            )
        )
        counter += 1
    return readings


@st.composite
def deliveries(draw: st.DrawFn) -> list[Interval]:
    """Mostly in order, for whose counter has been passed is refused; with repeats, losses and swaps."""
    readings = draw(said())
    places = draw(st.lists(st.integers(0, len(readings) - 1), max_size=30))
    order = [*range(len(readings))] if draw(st.booleans()) else sorted(places)
    for _ in range(draw(st.integers(0, 6))):
        order.insert(draw(st.integers(0, len(order))), draw(st.integers(0, len(readings) - 1)))
    return [readings[place] for place in order]


@settings(max_examples=400)
@given(deliveries(), st.lists(st.integers(0, 3_000), min_size=40, max_size=40))
def test_closed_adjusted_and_open_energy_is_the_energy_of_what_was_accepted(
    delivered: list[Interval], waits: list[int]
) -> None:
    meter, past = Meter(1, 10_000, 10**9, Windows(1)), Past()
    accepted: dict[int, Stored] = {}
    closings: list[Closing] = []
    adjustments: list[Adjustment] = []
    now_us = BEGIN_US + 2 * 86_400 * SECOND_US

    for reading, wait in zip(delivered, waits, strict=False):
        verdict = judge(meter, reading, past, now_us)
        if isinstance(verdict, Accepted):
            accepted[verdict.stored.counter] = verdict.stored
            adjustments += verdict.adjustments
        now_us += wait * SECOND_US
        if wait % 2:
            closings += meter.windows.close_due(meter.end_us, meter.heard_us, now_us)

    in_force = accepted.keys() - {one.corrects for one in accepted.values()}
    open_windows = list(meter.windows.open.values())
    everything: list[Closing | Adjustment | Window] = [*closings, *adjustments, *open_windows]
    for name in ("import_wh", "export_wh"):
        parts = sum(getattr(one, name) for one in everything)
        assert parts == sum(getattr(accepted[counter], name) for counter in in_force)
    measured = [one for one in closings if one.covered_us]
    assert len({one.start_us for one in measured}) == len(measured)
    assert all(min(one.import_wh, one.export_wh) >= 0 for one in measured)
    assert all(min(one.import_wh, one.export_wh) >= 0 for one in open_windows)
    spans = sorted((accepted[counter].start_us, accepted[counter].end_us) for counter in in_force)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert len(meter.windows.open) <= 400  # the windows of some days


@given(st.lists(st.tuples(st.integers(1, 5_000), st.integers(0, 3_000)), min_size=1, max_size=20), st.data())
def test_a_register_counts_what_flowed_whichever_of_its_readings_are_lost(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    at_us, total, readings = BEGIN_US, 997_000, []
    for counter, (seconds, energy) in enumerate(steps):
        at_us += seconds * SECOND_US
        total += min(energy, seconds * 10 // 4)
        readings.append((Register(ID, counter, at_us, 0, total % 1_000_000), total))
    kept = data.draw(st.lists(st.sampled_from(readings), min_size=1, unique_by=lambda one: one[0].counter))
    kept.sort(key=lambda one: one[0].counter)
    meter, past = Meter(1, 10_000, 999_999, Windows(1)), Past()

    for reading, _ in kept:
        assert isinstance(judge(meter, reading, past, at_us), Accepted)

    assert sum(one.export_wh for one in meter.windows.open.values()) == kept[-1][1] - kept[0][1]
