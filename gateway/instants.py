"""RFC 3339 in UTC at the edge, integer microseconds inside: the only place where one becomes the other."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from time import gmtime
from typing import Final

from engine.units import SECOND_US, TimeUs
from gateway.errors import invalid

_RFC3339: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)
_ZERO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
INSTANT_US_MAX: Final = 253_402_300_799_000_000  # the end of the year 9999


@lru_cache(maxsize=1_024)  # an order and its fills are of one instant, and so are those of a batch
def format_instant(time_us: TimeUs) -> str:
    """`2026-11-21T10:15:00Z`, with microseconds only when there are any."""
    seconds, rest = divmod(time_us, SECOND_US)
    return f"{_second(seconds)}.{rest:06d}Z" if rest else f"{_second(seconds)}Z"


def parse_instant(text: str, field: str) -> TimeUs:
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise invalid(field, "must be an instant such as 2026-11-21T10:15:00Z")
    day, second, fraction, offset = match.groups()
    try:
        instant = datetime.fromisoformat(f"{day}T{second}{fraction or ''}{'+00:00' if offset in 'Zz' else offset}")
    except ValueError:
        raise invalid(field, "is no instant of the calendar") from None
    time_us = (instant - _ZERO) // _MICROSECOND
    if not 0 <= time_us <= INSTANT_US_MAX:
        raise invalid(field, "must lie between 1970 and 9999")
    return time_us


@lru_cache(maxsize=4_096)  # a busy exchange formats the same few seconds over and over
def _second(seconds: int) -> str:
    t = gmtime(seconds)
    return f"{t[0]:04d}-{t[1]:02d}-{t[2]:02d}T{t[3]:02d}:{t[4]:02d}:{t[5]:02d}"
