"""One figure in this period, in the one before, and in the same one a week ago."""

from msgspec import Struct

from engine.analytics.series import share_bps


class Trend(Struct, frozen=True):
    """Changes are from then to now; in basis points of then they are None where there was nothing then."""

    now: int
    last: int
    week_ago: int
    change: int
    change_bps: int | None
    week_change: int
    week_change_bps: int | None


def trend(now: int, last: int, week_ago: int) -> Trend:
    return Trend(
        now,
        last,
        week_ago,
        now - last,
        share_bps(now - last, last),
        now - week_ago,
        share_bps(now - week_ago, week_ago),
    )
