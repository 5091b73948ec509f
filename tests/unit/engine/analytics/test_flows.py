"""Power, self-consumption and trend, each with an example computed by hand.

Seen to fail for: the minimum of the sums in place of the sum of the minima, a trend against the wrong period.
"""

from engine.analytics.flows import power_w, self_consumption
from engine.analytics.series import Flow, share_bps
from engine.analytics.trend import trend

WINDOW_US = 900_000_000


def test_power_is_energy_by_time() -> None:
    assert power_w(250, 900) == 1_000  # a quarter of a kWh in a quarter of an hour
    assert power_w(7, 3_600) == 7


def test_what_is_used_in_the_same_window_is_self_consumed() -> None:
    # window   export   import   both
    #      0      500      200    200
    #      1        0      300      0
    #      2      250      250    250
    # sum        750      750    450: 60 % of each
    flows = [Flow(0, 200, 500), Flow(WINDOW_US, 300, 0), Flow(2 * WINDOW_US, 250, 250)]

    found = self_consumption(flows)

    assert (found.generated_wh, found.consumed_wh, found.self_consumed_wh) == (750, 750, 450)
    assert (found.self_consumption_bps, found.self_sufficiency_bps) == (6_000, 6_000)


def test_who_generates_nothing_has_no_share_of_it() -> None:
    found = self_consumption([Flow(0, 400, 0)])

    assert found.self_consumption_bps is None
    assert found.self_sufficiency_bps == 0


def test_a_share_is_rounded_down() -> None:
    assert share_bps(2, 3) == 6_666
    assert share_bps(-1, 3) == -3_334
    assert share_bps(1, 0) is None


def test_a_trend_compares_with_the_period_before_and_the_week_before() -> None:
    # 12 kWh now, 10 kWh before: 2 kWh more, 20 %; 16 kWh a week ago: 4 kWh less, 25 %
    found = trend(12_000, 10_000, 16_000)

    assert (found.change, found.change_bps) == (2_000, 2_000)
    assert (found.week_change, found.week_change_bps) == (-4_000, -2_500)
    assert trend(1, 0, 0).change_bps is None
