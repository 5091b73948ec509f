"""The criteria for going on or rolling back.

Seen to fail for: counting what was before the change; a verdict without traffic; behind without looking back.
"""

import pytest

from commands.deploy import Figures, compared, judged, p95, parse

PAGE = """
# TYPE wattbook_http_request_seconds histogram
wattbook_http_request_seconds_bucket{route="a",method="GET",status="200",le="0.05"} %(quick)s
wattbook_http_request_seconds_bucket{route="a",method="GET",status="200",le="0.5"} %(all)s
wattbook_http_request_seconds_bucket{route="a",method="GET",status="200",le="+Inf"} %(all)s
wattbook_http_request_seconds_count{route="a",method="GET",status="200"} %(all)s
wattbook_http_request_seconds_sum{route="a",method="GET",status="200"} 1
wattbook_http_request_seconds_bucket{route="b",method="POST",status="503",le="0.05"} %(bad)s
wattbook_http_request_seconds_bucket{route="b",method="POST",status="503",le="0.5"} %(bad)s
wattbook_http_request_seconds_bucket{route="b",method="POST",status="503",le="+Inf"} %(bad)s
wattbook_http_request_seconds_count{route="b",method="POST",status="503"} %(bad)s
wattbook_http_request_seconds_sum{route="b",method="POST",status="503"} 1
# TYPE wattbook_market_replays_total counter
wattbook_market_replays_total{market="CAMPUS"} %(replays)s
# TYPE wattbook_market_sequence gauge
wattbook_market_sequence{market="CAMPUS"} %(sequence)s
# TYPE wattbook_follower_sequence gauge
wattbook_follower_sequence{market="CAMPUS"} 100
"""


def figures(quick: int, more: int = 0, bad: int = 0, replays: int = 0, behind: int = 0) -> Figures:
    numbers = {"quick": quick, "all": quick + more, "bad": bad, "replays": replays, "sequence": 100 + behind}
    return parse(PAGE % numbers)


BEFORE = figures(quick=1_000, more=1_000, bad=500, replays=7)


def verdicts(after: Figures, before: Figures = BEFORE) -> dict[str, bool | None]:
    return {one.what: one.verdict for one in judged(before, after)}


def test_a_good_version_goes_on_whatever_was_before_it() -> None:
    seen = verdicts(figures(quick=3_000, more=1_000, bad=500, replays=7))

    assert set(seen.values()) == {True}


@pytest.mark.parametrize(
    ("after", "what"),
    [
        (figures(quick=3_000, more=1_000, bad=510, replays=7), "failed"),
        (figures(quick=3_000, more=1_200, bad=500, replays=7), "p95 of requests"),
        (figures(quick=3_000, more=1_000, bad=500, replays=8), "books thrown away"),
        (figures(quick=3_000, more=1_000, bad=500, replays=7, behind=20_000), "entries that tables of CAMPUS lack"),
    ],
)
def test_each_criterion_can_say_no(after: Figures, what: str) -> None:
    assert [name for name, verdict in verdicts(after).items() if not verdict] == [what]


def test_without_traffic_nothing_is_said() -> None:
    seen = verdicts(figures(quick=1_005, more=1_000, bad=500, replays=7))

    assert [name for name, verdict in seen.items() if verdict is None] == ["requests", "failed", "p95 of requests"]


def test_tables_that_catch_up_may_be_behind() -> None:
    before = figures(quick=1_000, behind=90_000)

    assert verdicts(figures(quick=2_000, behind=50_000), before)["entries that tables of CAMPUS lack"] is True


def test_a_version_is_compared_with_the_one_before() -> None:
    assert p95(BEFORE, figures(quick=2_000, more=1_000, bad=500)) == 0.05
    assert compared(0.05, 0.05).verdict is True
    assert compared(0.1, 0.05).verdict is False
    assert compared(0.1, 0.0).verdict is None
