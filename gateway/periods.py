"""Periods that analytics and reports are asked for: their bounds, and days and months in UTC."""

from datetime import UTC, datetime
from typing import Annotated, Final

from litestar.params import QueryParameter

from engine.units import SECOND_US, TimeUs
from gateway.errors import invalid
from gateway.instants import parse_instant

HOUR_US: Final = 3_600 * SECOND_US
DAY_US: Final = 24 * HOUR_US
_ZERO: Final = datetime(1970, 1, 1, tzinfo=UTC)

From = Annotated[str | None, QueryParameter(name="from", description="RFC 3339; counts")]
To = Annotated[str | None, QueryParameter(name="to", description="RFC 3339; does not count")]


def span(from_: str | None, to: str | None, now_us: TimeUs, *, days: int, days_max: int) -> tuple[TimeUs, TimeUs]:
    """From and to; what is left out gives the last so many days, with today. Raises VALIDATION_FAILED."""
    to_us = parse_instant(to, "to") if to is not None else now_us
    from_us = parse_instant(from_, "from") if from_ is not None else max(0, day_of(to_us) - (days - 1) * DAY_US)
    if to_us < from_us:
        raise invalid("to", "must not be before from")
    if to_us - from_us > days_max * DAY_US:
        raise invalid("from", f"must be at most {days_max} days before to")
    return from_us, to_us


def day_of(instant_us: TimeUs) -> TimeUs:
    """When the UTC day of this instant begins."""
    return instant_us // DAY_US * DAY_US


def days_between(from_us: TimeUs, to_us: TimeUs) -> list[TimeUs]:
    """The edges of all days that the period touches: one more than days."""
    first, last = day_of(from_us), day_of(max(from_us, to_us - 1))
    return list(range(first, last + 2 * DAY_US, DAY_US))


def months_between(from_us: TimeUs, to_us: TimeUs) -> list[TimeUs]:
    """The edges of all calendar months that the period touches."""
    year, month = _month(from_us)
    end = _month(max(from_us, to_us - 1))
    edges = [_first_of(year, month)]
    while (year, month) <= end:
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        edges.append(_first_of(year, month))
    return edges


def _month(instant_us: TimeUs) -> tuple[int, int]:
    day = datetime.fromtimestamp(instant_us // SECOND_US, UTC)
    return day.year, day.month


def _first_of(year: int, month: int) -> TimeUs:
    return int((datetime(year, month, 1, tzinfo=UTC) - _ZERO).total_seconds()) * SECOND_US
