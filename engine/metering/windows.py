"""Windows of 900 s by the meter's own time: what is open, when it closes, what late readings do to what is closed.

A closed window never reopens: a late reading is an adjustment beside it. Estimated energy is reported, never credited.
Everything of a reading lands in exactly one place, so closed windows and adjustments add up to the readings.
"""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from engine.units import SECOND_US, EnergyWh, TimeUs

WINDOW_US: Final = 900 * SECOND_US
GRACE_US: Final = 120 * SECOND_US  # that the meter's watermark must be past a window's end
SILENCE_US: Final = 900 * SECOND_US  # after which nothing more is waited for
GAP_US_MAX: Final = 7_200 * SECOND_US  # that is estimated; longer ones stay empty


class Portion(Struct, frozen=True, array_like=True, gc=False):
    """What of a reading falls into one window; below zero where a correction takes something back."""

    start_us: TimeUs  # of the window
    import_wh: int
    export_wh: int
    covered_us: int


class Window(Struct, gc=False):
    """An open window: what it has so far."""

    import_wh: int = 0
    export_wh: int = 0
    covered_us: int = 0


class Closing(Struct, frozen=True, array_like=True, gc=False):
    """A window that is closed now. Measured energy is credited; estimated energy fills a gap in reports only."""

    meter: int
    start_us: TimeUs
    import_wh: EnergyWh
    export_wh: EnergyWh
    covered_us: int
    import_estimated_wh: EnergyWh = 0
    export_estimated_wh: EnergyWh = 0


class Adjustment(Struct, frozen=True, array_like=True, gc=False):
    """What a late reading, or a correction, changes about a closed window; once per reading and window."""

    meter: int
    start_us: TimeUs  # of the window
    device: int
    counter: int  # of the reading
    import_wh: int
    export_wh: int


def window_of(instant_us: TimeUs) -> TimeUs:
    """Start of the window that holds this instant."""
    return instant_us // WINDOW_US * WINDOW_US


def split(start_us: TimeUs, end_us: TimeUs, import_wh: EnergyWh, export_wh: EnergyWh) -> Iterator[Portion]:
    """The reading's part in each window that it touches, in order, evenly by time; of an empty one there is none.

    Each boundary's running total is rounded down, so that the parts add up to the whole.
    """
    length = end_us - start_us
    if not length:
        return
    import_before = export_before = 0
    window = window_of(start_us)
    while window < end_us:
        passed = min(window + WINDOW_US, end_us) - start_us
        import_so_far, export_so_far = import_wh * passed // length, export_wh * passed // length
        covered = min(window + WINDOW_US, end_us) - max(window, start_us)
        yield Portion(window, import_so_far - import_before, export_so_far - export_before, covered)
        import_before, export_before = import_so_far, export_so_far
        window += WINDOW_US


class Windows(Struct, gc=False):
    """The windows of one meter. Memory is bounded: what the watermark has passed is closed at the next look."""

    meter: int
    closed_us: TimeUs = 0  # all that ends here or before is closed
    open: dict[TimeUs, Window] = {}  # each instance gets its own
    last: Closing | None = None  # the closed window from which a gap is bridged

    def add(self, portion: Portion) -> bool:
        """Count this in; False when the window is closed, and nothing was counted."""
        if portion.start_us < self.closed_us:
            return False
        window = self.open.get(portion.start_us)
        if window is None:
            window = self.open[portion.start_us] = Window()
        window.import_wh += portion.import_wh
        window.export_wh += portion.export_wh
        window.covered_us += portion.covered_us
        return True

    def close_due(self, watermark_us: TimeUs, heard_us: TimeUs, now_us: TimeUs) -> list[Closing]:
        """Close what is due, oldest first, with the estimates of the gaps between.

        watermark_us: end of the meter's latest interval, by its own time; heard_us: when it was heard last, by ours.
        A meter whose clock is ahead closes nothing before our clock has got there, too.
        """
        passed_us = min(watermark_us, now_us) - GRACE_US
        if now_us - heard_us >= SILENCE_US:
            passed_us = max(passed_us, now_us)
        closings: list[Closing] = []
        for start_us in sorted(start for start in self.open if start + WINDOW_US <= passed_us):
            window = self.open.pop(start_us)
            closing = Closing(self.meter, start_us, window.import_wh, window.export_wh, window.covered_us)
            closings += _bridge(self.last, closing)
            closings.append(closing)
            self.last, self.closed_us = closing, start_us + WINDOW_US
        return closings


def _bridge(before: Closing | None, after: Closing) -> Iterator[Closing]:
    """Estimates for the windows between two closed ones: on the straight line from one to the other."""
    if before is None:
        return
    first_us = before.start_us + WINDOW_US
    if not 0 < after.start_us - first_us <= GAP_US_MAX:
        return
    steps = (after.start_us - before.start_us) // WINDOW_US
    for step in range(1, steps):
        yield Closing(
            after.meter,
            before.start_us + step * WINDOW_US,
            0,
            0,
            0,
            (before.import_wh * (steps - step) + after.import_wh * step) // steps,
            (before.export_wh * (steps - step) + after.export_wh * step) // steps,
        )
