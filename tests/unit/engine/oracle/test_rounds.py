"""Rounds: quorum, outliers, median and spread, in integers exactly as fractions have them.

Seen to fail for: a quorum of half, one provider that was not declared, a median that loses its half, a limit that is
reached and not passed, outliers that move the median, a history without an end.
"""

from fractions import Fraction
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.oracle.rounds import (
    FLAG_OUTLIERS,
    FLAG_ROUNDS,
    Round,
    close,
    is_flagged,
    is_fresh,
    is_stale,
    note,
    outliers,
    quorum_of,
)
from engine.oracle.submissions import FRESH_US, VALUE_MAX, feed_id, signed_bytes

values = st.lists(st.integers(-20, 20) | st.integers(-VALUE_MAX, VALUE_MAX), min_size=1, max_size=12)


def naive_outliers(given: list[int]) -> list[bool]:
    exact = [Fraction(value) for value in given]
    middle = median(exact)
    mad = median([abs(value - middle) for value in exact])
    return [abs(value - middle) > 3 * Fraction(14_826, 10_000) * mad for value in exact]


@given(values)
def test_outliers_are_those_of_exact_fractions(given: list[int]) -> None:
    assert outliers(given) == naive_outliers(given)


@given(values)
def test_the_value_is_the_median_of_those_that_count(given: list[int]) -> None:
    made = close(given, 1)

    assert made is not None
    kept = [value for value, stray in zip(given, naive_outliers(given), strict=True) if not stray]
    assert made.value == median([Fraction(value) for value in kept]) // 1
    assert made.spread == max(kept) - min(kept)
    assert 2 * made.used > len(given)  # fewer than half can be outliers


@given(values, st.data())
def test_the_order_of_submissions_does_not_matter(given: list[int], data: st.DataObject) -> None:
    first, turned = close(given, 1), close(data.draw(st.permutations(given)), 1)

    assert first is not None
    assert turned is not None
    assert (first.value, first.spread, first.used) == (turned.value, turned.spread, turned.used)


@pytest.mark.parametrize(("active", "quorum"), [(0, 2), (1, 2), (2, 2), (3, 2), (4, 3), (5, 3), (9, 5)])
def test_a_quorum_is_more_than_half_and_two(active: int, quorum: int) -> None:
    assert quorum_of(active, single_provider=False) == quorum


def test_a_single_provider_must_be_declared() -> None:
    assert quorum_of(1, single_provider=True) == 1
    assert quorum_of(4, single_provider=True) == 3


def test_below_the_quorum_there_is_no_value() -> None:
    assert close([4_500], 2) is None
    assert close([], 0) is None
    assert close([4_500, 4_700], 2) == Round(4_600, 200, (False, False))


def test_a_liar_does_not_move_the_value() -> None:
    assert close([100, 101, 102, 103, 10**9], 3) == Round(101, 3, (False, False, False, False, True))


def test_the_limit_is_passed_and_not_reached() -> None:
    steps = [-10_000, 0, 10_000]  # median 0, MAD 10,000: the limit is 44,478

    assert outliers([*steps, -10_000, 44_478, 10_000, 0])[4] is False
    assert outliers([*steps, -10_000, 44_479, 10_000, 0])[4] is True


def test_where_most_agree_exactly_everybody_else_is_an_outlier() -> None:
    assert outliers([5, 5, 5, 6]) == [False, False, False, True]


def test_half_steps_are_rounded_down() -> None:
    made = close([-3, -2], 2)

    assert made is not None
    assert made.value == -3


def test_what_is_five_minutes_old_still_counts() -> None:
    assert is_fresh(0, FRESH_US)
    assert not is_fresh(0, FRESH_US + 1)


def test_a_value_is_stale_when_a_later_round_failed_or_none_came() -> None:
    assert not is_stale(59, 0, 30, missed=False)
    assert is_stale(60, 0, 30, missed=False)
    assert is_stale(1, 0, 30, missed=True)


def test_a_provider_is_flagged_for_outliers_of_late_and_forgiven_later() -> None:
    history = 0
    for _ in range(FLAG_OUTLIERS - 1):
        history = note(history, stray=True)

    assert not is_flagged(history)
    history = note(history, stray=True)
    assert is_flagged(history)
    for _ in range(FLAG_ROUNDS):
        history = note(history, stray=False)
    assert history == 0


def test_what_is_signed_covers_every_field() -> None:
    first = signed_bytes(bytes(16), "retail_price", 4_500_000, 1)
    others = {
        signed_bytes(bytes([1] * 16), "retail_price", 4_500_000, 1),
        signed_bytes(bytes(16), "retail_pric", 4_500_000, 1),
        signed_bytes(bytes(16), "retail_price", 4_500_001, 1),
        signed_bytes(bytes(16), "retail_price", 4_500_000, 2),
    }

    assert len(first) == 18 + 16 + 16 + 8 + 8
    assert len({first, *others}) == 5
    assert feed_id("retail_price") == b"retail_price\0\0\0\0"
