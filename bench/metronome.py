"""Calls back at an instant, to some ten microseconds: event loops know milliseconds only, which is half of a good p50.

Linux's timerfd through ctypes (Python has it from 3.13 on); elsewhere the loop's own timer, with its coarser steps.
"""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final

_CLOCK_MONOTONIC: Final = 1  # perf_counter's clock on Linux
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_ABSOLUTE: Final = 1
_SECOND_NS: Final = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Metronome:
    """`at` asks for one call of `tick`; asking again moves it."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._loop, self._tick = asyncio.get_running_loop(), tick
        self._later: asyncio.TimerHandle | None = None
        self._fd = -1
        self._set = False
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
            if self._fd < 0:
                raise OSError(ctypes.get_errno(), "timerfd_create failed")
            self._spec = _Itimerspec()
            self._loop.add_reader(self._fd, self._ring)

    def at(self, when_ns: int) -> None:
        """when_ns is an instant of perf_counter_ns; one that has passed means now."""
        if self._fd < 0:
            self.stop()
            self._later = self._loop.call_later(max(0, when_ns - perf_counter_ns()) / _SECOND_NS, self._tick)
            return
        self._set_to(*divmod(when_ns, _SECOND_NS))

    def close(self) -> None:
        self.stop()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def stop(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _ring(self) -> None:
        """Setting the timer also says that it was heard, which saves reading it; unset it rings no more."""
        self._set = False
        self._tick()
        if not self._set and self._fd >= 0:
            self._set_to(0, 0)

    def _set_to(self, seconds: int, nanoseconds: int) -> None:
        value = self._spec.value
        value.seconds, value.nanoseconds = seconds, nanoseconds
        if self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(self._spec), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
        self._set = True
