"""Runs: what one meter says in one go, of which most is usual. The usual is judged here, with a twentieth of the work.

A reading is usual when it goes on where its meter stands: a higher counter, no earlier than what was there, within one
window that is open, of a possible energy, and no correction. Whatever is not ends the run: from there on
validation.judge is asked, one by one. Both must come to the same; tests/property/test_runs.py has them compared.
"""

from collections.abc import Sequence
from struct import Struct as Layout
from typing import Final, NamedTuple, TypeAlias

from engine.metering.readings import COUNTER_MAX, DURATION_S_MAX, Flag, Interval, Stored
from engine.metering.validation import AGE_US_MAX, FUTURE_US_MAX, Meter, is_spike, spike_free_wh, wh_max_of
from engine.metering.windows import WINDOW_US, Portion
from engine.units import SECOND_US, TimeUs

# As its meter, or for it a head-end, has signed it: meter, counter, start, seconds, import and export in Wh.
SIGNED: Final = Layout("<19x16sQqIqq")
Said: TypeAlias = tuple[bytes, int, int, int, int, int]
Kept: TypeAlias = tuple[int, int, int, int, int, int]  # counter, start, end, import, export, flags


class Run(NamedTuple):
    """Accepted readings of one device, in order."""

    meter: int
    device: int
    kept: list[Kept]
    received_us: TimeUs


def interval_of(said: Said) -> Interval:
    return Interval(*said)


def stored_of(run: Run) -> list[Stored]:
    """The same as rows."""
    meter, device, kept, received_us = run
    return [
        Stored(meter, device, counter, start_us, end_us, import_wh, export_wh, None, None, None, flags, received_us)
        for counter, start_us, end_us, import_wh, export_wh, flags in kept
    ]


def accept(meter: Meter, said: Sequence[Said], now_us: TimeUs) -> Run:
    """Count in as many as are usual, from the first one on; those that are left are to be judged one by one.

    `said` is in the order of the counters.
    """
    counter, end_us, closed_us = meter.counter, meter.end_us, meter.windows.closed_us
    first_us, last_us = now_us - AGE_US_MAX, now_us + FUTURE_US_MAX
    window_us = until_us = length_us = import_sum = export_sum = covered_us = wh_max = calm_wh = 0
    seconds, kept = 0, list[Kept]()
    keep = kept.append
    for _, number, start_us, lasts, import_wh, export_wh in said:
        if not (
            counter < number <= COUNTER_MAX
            and start_us >= end_us
            and first_us <= start_us <= last_us
            and 0 < lasts <= DURATION_S_MAX
        ):
            break
        if lasts != seconds:
            seconds, length_us = lasts, lasts * SECOND_US
            wh_max, calm_wh = wh_max_of(meter, length_us), spike_free_wh(meter, start_us, length_us)
        after_us = start_us + length_us
        if after_us > until_us:  # the window before is over
            opens_us = start_us // WINDOW_US * WINDOW_US
            if opens_us < closed_us or after_us > opens_us + WINDOW_US:
                break
            if covered_us:
                meter.windows.add(Portion(window_us, import_sum, export_sum, covered_us))
            window_us, until_us = opens_us, opens_us + WINDOW_US
            import_sum = export_sum = covered_us = 0
            calm_wh = spike_free_wh(meter, start_us, length_us)  # it may be another day
        if not (0 <= import_wh <= wh_max and 0 <= export_wh <= wh_max):
            break
        flags = 0
        if import_wh > calm_wh or export_wh > calm_wh:
            flags = _SUSPECT if is_spike(meter, start_us, length_us, max(import_wh, export_wh)) else 0
            calm_wh = spike_free_wh(meter, start_us, length_us)
        import_sum += import_wh
        export_sum += export_wh
        covered_us += length_us
        keep((number, start_us, after_us, import_wh, export_wh, flags))
        counter, end_us = number, after_us
    if covered_us:
        meter.windows.add(Portion(window_us, import_sum, export_sum, covered_us))
    if kept:
        meter.counter, meter.end_us, meter.heard_us = counter, end_us, now_us
    return Run(meter.number, meter.device, kept, now_us)


_SUSPECT: Final = Flag.SUSPECT.value
