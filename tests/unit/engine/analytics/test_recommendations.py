"""Recommendations and the numbers that they rest on, by hand.

Seen to fail for: a level of nine asks, 79.99 % of energy, asks of other hours, a median by count instead of energy.
"""

from typing import Any

from msgspec.structs import replace

from engine.analytics.recommendations import (
    AskHigher,
    AskLevel,
    Sale,
    SellMore,
    ShiftUse,
    Week,
    median_price,
    recommendations,
)

NOON = 11  # the hours 11, 12, 13
NOTHING = Week([0] * 24, [0] * 24, 0, 0, 0, (), (), None, None)


def hours(**energies: int) -> list[int]:
    """h11=500: 500 Wh in that hour of the day."""
    return [energies.get(f"h{hour}", 0) for hour in range(24)]


def sunny(**changes: Any) -> Week:
    """3.1 kWh exported between 11 and 14, a median of 2.90 there."""
    week = Week(
        hours(),
        hours(h11=1_000, h12=1_100, h13=1_000),
        0,
        0,
        0,
        [Sale(11, 2_800_000, 900), Sale(12, 2_900_000, 600), Sale(13, 3_300_000, 700), Sale(20, 9_000_000, 99_000)],
        [AskLevel(11, 3_200_000, 6, 6_000, 5_000), AskLevel(12, 3_200_000, 4, 4_000, 3_000)],
        None,
        None,
    )
    return replace(week, **changes)


def test_the_median_is_by_energy() -> None:
    # 900 Wh at 2.80, 600 at 2.90, 700 at 3.30: of 2,200 Wh half are reached at 2.90
    assert median_price([Sale(0, 3_300_000, 700), Sale(0, 2_800_000, 900), Sale(0, 2_900_000, 600)]) == 2_900_000
    # 1,500 Wh at 2.80 are more than half of 2,800
    assert median_price([Sale(0, 3_300_000, 700), Sale(0, 2_800_000, 1_500), Sale(0, 2_900_000, 600)]) == 2_800_000


def test_asks_that_fill_at_a_higher_price_are_worth_asking() -> None:
    # at 3.20 ten asks between 11 and 14: 8,000 of 10,000 Wh were filled, 80 %
    found = recommendations(sunny())

    assert found == [AskHigher(NOON, 14, 3_100, 2_900_000, True, 3_200_000, 8_000, 10)]


def test_what_hardly_fills_or_is_too_few_or_at_another_hour_is_no_reason() -> None:
    for asks in (
        [AskLevel(11, 3_200_000, 10, 10_000, 7_999)],
        [AskLevel(11, 3_200_000, 9, 10_000, 10_000)],
        [AskLevel(14, 3_200_000, 10, 10_000, 10_000)],
        [AskLevel(11, 2_900_000, 10, 10_000, 10_000)],
    ):
        assert recommendations(sunny(asks=asks)) == []


def test_who_sold_nothing_is_compared_with_the_feed_in_price() -> None:
    (found,) = recommendations(sunny(sales=(), feed_in_micro=2_200_000))

    assert isinstance(found, AskHigher)
    assert (found.own_micro, found.own_sales) == (2_200_000, False)


def test_use_can_be_shifted_to_where_one_exports() -> None:
    # 2 kWh imported between 18 and 21, 3.1 kWh exported at noon: 2 kWh x (4.50 - 2.20) = 4.60
    week = sunny(asks=(), import_wh=hours(h18=500, h19=1_000, h20=500), retail_micro=4_500_000, feed_in_micro=2_200_000)

    assert recommendations(week) == [ShiftUse(18, 21, 2_000, NOON, 14, 3_100, 4_600_000)]


def test_import_in_the_sunny_hours_is_not_shifted() -> None:
    week = sunny(asks=(), import_wh=hours(h12=9_000), retail_micro=4_500_000, feed_in_micro=2_200_000)

    assert recommendations(week) == []


def test_what_is_credited_and_lies_about_could_be_sold() -> None:
    # 12 kWh credited, 4 retired, 3 sold: 5 left
    week = replace(NOTHING, credited_wh=12_000, retired_wh=4_000, sold_wh=3_000)

    assert recommendations(week) == [SellMore(12_000, 4_000, 3_000, 5_000)]


def test_an_empty_week_gives_no_advice() -> None:
    assert recommendations(NOTHING) == []
