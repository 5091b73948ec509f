"""RFC 3339 and microseconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Problem
from gateway.instants import INSTANT_US_MAX, format_instant, parse_instant


@given(st.integers(0, INSTANT_US_MAX))
def test_every_instant_survives_the_round_trip(time_us: int) -> None:
    assert parse_instant(format_instant(time_us), "at") == time_us


def test_an_offset_is_an_instant_too() -> None:
    assert parse_instant("2026-11-21T17:15:00+07:00", "at") == parse_instant("2026-11-21T10:15:00Z", "at")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-21",
        "2026-11-21T10:15:00",
        "2026-02-30T10:15:00Z",
        "2026-11-21 10:15:00Z",
        "1969-12-31T23:59:59Z",
        "0",
    ],
)
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="VALIDATION_FAILED"):
        parse_instant(text, "at")
