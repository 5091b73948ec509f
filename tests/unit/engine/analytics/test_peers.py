"""Peers: what is told of others, and when nothing is.

Seen to fail for: four others who are enough, a neighbour with more than half, oneself counted among the others.
"""

import pytest

from engine.analytics.peers import may_be_told, peers
from engine.analytics.series import Flow


def test_the_average_of_the_others_is_rounded_and_quarters_are_of_all() -> None:
    # five others use 1,000, 2,000, 3,000, 4,000 and 5,650 Wh: 15,650 in all, 3,130 each, 3,100 in steps of 100
    others = [1_000, 2_000, 3_000, 4_000, 5_650]

    found = peers(3_500, others)

    assert (found.enough, found.others_average_wh) == (True, 3_100)
    assert found.quarter == 3  # three of the five are below: the fourth of six


@pytest.mark.parametrize(("own", "quarter"), [(0, 1), (1_000, 1), (1_500, 1), (2_500, 2), (3_500, 3), (9_000, 4)])
def test_the_quarter_grows_with_how_many_are_below(own: int, quarter: int) -> None:
    assert peers(own, [1_000, 2_000, 3_000, 4_000, 5_000]).quarter == quarter


@pytest.mark.parametrize(
    "others",
    [
        [],
        [1_000] * 4,  # too few
        [1_000, 1_000, 1_000, 1_000, 4_001],  # one has more than half
        [0, 0, 0, 0, 0],  # all are known by the average
    ],
)
def test_where_somebody_stands_out_nothing_is_told(others: list[int]) -> None:
    found = peers(500, others)

    assert (found.own_wh, found.enough, found.others_average_wh, found.quarter) == (500, False, None, None)


def test_half_of_all_is_not_more_than_half() -> None:
    assert peers(0, [1_000, 1_000, 1_000, 1_000, 4_000]).enough


def test_the_flow_of_a_zone_is_told_by_the_same_rule() -> None:
    assert may_be_told(Flow(0, 600, 400, meters=9, owners=5, largest_wh=500))
    assert not may_be_told(Flow(0, 600, 400, meters=9, owners=4, largest_wh=300))
    assert not may_be_told(Flow(0, 600, 400, meters=9, owners=5, largest_wh=501))
