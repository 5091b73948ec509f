"""Averages and results by hand. Seen to fail for: a cost rounded down, an average over both sides."""

from engine.analytics.positions import average_price_micro, realised_micro


def test_an_average_is_over_all_of_one_side_and_rounded_down() -> None:
    assert average_price_micro(10_000_000, 3_000) == 3_333_333
    assert average_price_micro(0, 0) is None


def test_what_was_bought_and_sold_again_has_a_result_and_the_rest_has_none() -> None:
    # 2 kWh at 3.000, 1 kWh of it sold again at 4.500
    assert realised_micro(2_000, 1_000, 6_000_000, 4_500_000) == 1_500_000
    assert realised_micro(1_000, 3_000, 4_000_000, 9_000_000) == -1_000_000
    assert realised_micro(2_000, 0, 6_000_000, 0) == 0
    assert realised_micro(0, 2_000, 0, 6_000_000) == 0


def test_rounding_is_against_the_participant() -> None:
    assert realised_micro(3, 1, 10, 3) == 3 - 4  # a third of 10 costs 4
    assert realised_micro(1, 3, 3, 10) == 3 - 3  # a third of 10 brings 3
