"""What trading here was worth, against the grid: earned more than the feed-in price, saved against the retail price.

earned_more = received - sold at the feed-in price
saved       = bought at the retail price - paid
benefit     = earned_more + saved - fees
"""

from collections.abc import Sequence

from msgspec import Struct

from engine.analytics.rates import FEED_IN, RETAIL, Rates
from engine.analytics.series import TradePart
from engine.units import EnergyWh, MoneyMicro


class Earnings(Struct, frozen=True):
    """What depends on a rate is None where no rate was known. Money may be below zero: then the grid was better."""

    sold_wh: EnergyWh
    bought_wh: EnergyWh
    received_micro: MoneyMicro
    paid_micro: MoneyMicro
    fees_micro: MoneyMicro
    earned_more_micro: int | None
    saved_micro: int | None
    benefit_micro: int | None


def earnings(parts: Sequence[TradePart], rates: Rates) -> Earnings:
    received, paid = sum(part.received_micro for part in parts), sum(part.paid_micro for part in parts)
    fees = sum(part.fees_micro for part in parts)
    at_feed_in = rates.worth(FEED_IN, [(part.start_us, part.sold_wh) for part in parts])
    at_retail = rates.worth(RETAIL, [(part.start_us, part.bought_wh) for part in parts])
    earned_more = received - at_feed_in if at_feed_in is not None else None
    saved = at_retail - paid if at_retail is not None else None
    benefit = earned_more + saved - fees if earned_more is not None and saved is not None else None
    return Earnings(
        sum(part.sold_wh for part in parts),
        sum(part.bought_wh for part in parts),
        received,
        paid,
        fees,
        earned_more,
        saved,
        benefit,
    )
