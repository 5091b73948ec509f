"""Earnings, carbon, reports and trading performance, each with an example computed by hand.

Seen to fail for: fees counted as a gain, a trade at the rate of another part, an edge that belongs to the step before.
"""

import itertools

from engine.analytics.earnings import earnings
from engine.analytics.performance import EpochPosition, PlacedOrders, performance
from engine.analytics.rates import EMISSION, FEED_IN, RETAIL, Rate, Rates
from engine.analytics.report import avoided_mg, report
from engine.analytics.series import EnergyPart, TradePart

DAY_US = 86_400_000_000
RATES = Rates(
    [
        Rate(RETAIL, 0, 4_500_000),
        Rate(RETAIL, DAY_US, 5_000_000),
        Rate(FEED_IN, 0, 2_200_000),
        Rate(EMISSION, 0, 500_000),
        Rate(EMISSION, DAY_US, 400_000),
    ]
)


def traded(start_us: int, bought_wh: int, sold_wh: int, paid: int, received: int, fees: int = 0) -> TradePart:
    return TradePart(start_us, bought_wh, sold_wh, paid, received, fees, 1)


def measured(start_us: int, retired_wh: int, export_wh: int = 0, import_wh: int = 0) -> EnergyPart:
    return EnergyPart(start_us, import_wh, export_wh, 0, 0, export_wh, retired_wh)


def test_earnings_and_savings_are_against_the_grid() -> None:
    # sold 2 kWh for 6.00; the grid pays 2 x 2.20 = 4.40: 1.60 more
    # bought 1 kWh on the first day, 3 kWh on the second for 14.00; the grid takes 4.50 + 3 x 5.00 = 19.50: 5.50 saved
    # fees 0.10: 7.00 in all
    parts = [
        traded(0, 1_000, 2_000, 3_500_000, 6_000_000, 40_000),
        traded(DAY_US, 3_000, 0, 10_500_000, 0, 60_000),
    ]

    found = earnings(parts, RATES)

    assert (found.sold_wh, found.bought_wh, found.received_micro, found.paid_micro) == (
        2_000,
        4_000,
        6_000_000,
        14_000_000,
    )
    assert (found.earned_more_micro, found.saved_micro, found.benefit_micro) == (1_600_000, 5_500_000, 7_000_000)


def test_without_a_price_there_is_nothing_to_compare_with() -> None:
    found = earnings([traded(0, 1_000, 1_000, 1, 1)], Rates([Rate(RETAIL, 0, 4_500_000)]))

    assert found.saved_micro == 4_499_999
    assert found.earned_more_micro is None
    assert found.benefit_micro is None


def test_retired_local_energy_avoids_what_the_grid_emits() -> None:
    # 3 kWh at 0.5 kg on the first day, 2 kWh at 0.4 kg on the second: 1.5 + 0.8 = 2.3 kg
    assert avoided_mg([measured(0, 3_000), measured(DAY_US, 2_000)], RATES) == 2_300_000


def test_a_report_has_a_row_for_every_step() -> None:
    # day 0: exported 5 kWh, imported 4, 3 of them retired, sold 2 kWh for 6.00
    # day 1: nothing; day 2, cut by nothing: retired 1 kWh at 0.4 kg
    edges = [0, DAY_US, 2 * DAY_US, 3 * DAY_US]
    energy = [measured(0, 3_000, 5_000, 4_000), measured(2 * DAY_US, 1_000)]

    rows = report(edges, energy, [traded(0, 0, 2_000, 0, 6_000_000)], RATES)

    assert [(row.start_us, row.end_us) for row in rows] == list(itertools.pairwise(edges))
    assert [row.generated_wh for row in rows] == [5_000, 0, 0]
    assert [row.retired_wh for row in rows] == [3_000, 0, 1_000]
    assert [row.avoided_mg for row in rows] == [1_500_000, 0, 400_000]
    assert [row.trading.earned_more_micro for row in rows] == [1_600_000, 0, 0]


def test_performance_is_measured_against_the_markets_of_the_same_epochs() -> None:
    # epoch 0: 10 kWh traded for 30.00, so 3.00 each; sold 2 kWh for 6.20: 0.20 more than the average
    # epoch 1: 4 kWh traded for 14.00, so 3.50 each; bought 1 kWh for 3.40: 0.10 less
    positions = [
        EpochPosition(0, 2_000, 0, 6_200_000, 6_000, 2, 10_000, 30_000_000),
        EpochPosition(1_000, 0, 3_400_000, 0, 3_000, 1, 4_000, 14_000_000),
    ]

    found = performance(positions, PlacedOrders(4, 3, 4_000, 3_000))

    assert (found.sell_advantage_micro, found.buy_advantage_micro) == (200_000, 100_000)
    assert (found.average_sell_micro, found.average_buy_micro) == (3_100_000, 3_400_000)
    assert (found.trades, found.fees_micro, found.fill_bps) == (3, 9_000, 7_500)


def test_who_did_not_trade_has_no_average_price() -> None:
    found = performance([], PlacedOrders(0, 0, 0, 0))

    assert (found.average_sell_micro, found.average_buy_micro, found.fill_bps) == (None, None, None)
