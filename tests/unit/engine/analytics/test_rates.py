"""Rates: what holds when, and what energy is worth at them.

Seen to fail for: a rate that begins one microsecond late, a division for each part instead of one at the end.
"""

from engine.analytics.rates import EMISSION, FEED_IN, RETAIL, Rate, Rates
from engine.units import SECOND_US

HOUR_US = 3_600 * SECOND_US
RATES = Rates([Rate(RETAIL, 10 * HOUR_US, 5_000_000), Rate(RETAIL, 0, 4_500_000), Rate(FEED_IN, HOUR_US, 2_200_000)])


def test_a_rate_holds_from_its_instant_until_the_next() -> None:
    assert RATES.at(RETAIL, 0) == 4_500_000
    assert RATES.at(RETAIL, 10 * HOUR_US - 1) == 4_500_000
    assert RATES.at(RETAIL, 10 * HOUR_US) == 5_000_000
    assert RATES.at(FEED_IN, HOUR_US - 1) is None


def test_cuts_are_the_changes_inside_a_period() -> None:
    assert RATES.cuts(0, 11 * HOUR_US) == [HOUR_US, 10 * HOUR_US]
    assert RATES.cuts(HOUR_US, 10 * HOUR_US) == []


def test_energy_is_worth_what_its_hours_cost_and_is_rounded_once() -> None:
    # 333 Wh at 4.50 = 1.4985; 1 Wh at 5.00 = 0.005: 1.5035 in all
    assert RATES.worth(RETAIL, [(9 * HOUR_US, 333), (10 * HOUR_US, 1)]) == 1_503_500
    # three times 1 Wh at 500,500 mg per kWh: 500.5 mg each, so 1,501.5 together, and 1,501 in whole mg
    emission = Rates([Rate(EMISSION, 0, 500_500)])
    assert emission.worth(EMISSION, [(hour * HOUR_US, 1) for hour in range(3)]) == 1_501


def test_energy_without_a_rate_has_no_worth_and_none_needs_none() -> None:
    assert RATES.worth(FEED_IN, [(0, 1), (HOUR_US, 1)]) is None
    assert RATES.worth(FEED_IN, [(0, 0), (HOUR_US, 1_000)]) == 2_200_000
