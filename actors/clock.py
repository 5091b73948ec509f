"""The one clock that shells hand to the engine, and a way for tests to set it.

Nobody sets it unless the process was started with CLOCK_SET: the path of a file. No setting of the exchange leads here.
While that file holds a number, the clock goes so many seconds ahead, or behind if it is below zero.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from engine.units import SECOND_US, TimeUs

VARIABLE: Final = "CLOCK_SET"
_LOOK_SECONDS: Final = 0.05


def _real_us() -> TimeUs:
    return time.time_ns() // 1_000


class SetClock:
    """Looks at the file now and then."""

    def __init__(self, path: Path) -> None:
        self._path, self._ahead_us, self._look_at = path, 0, 0.0

    def __call__(self) -> TimeUs:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            self._ahead_us = self._read_us()
        return _real_us() + self._ahead_us

    def _read_us(self) -> TimeUs:
        try:
            return int(self._path.read_text() or 0) * SECOND_US
        except FileNotFoundError:
            return 0


def clock() -> Callable[[], TimeUs]:
    """The clock of this process: now, in microseconds UTC."""
    path = os.environ.get(VARIABLE)
    return SetClock(Path(path)) if path else _real_us


clock_us: Final = clock()


def elapsed_us() -> int:
    """What has passed since some instant, in microseconds: nobody sets it."""
    return time.monotonic_ns() // 1_000
