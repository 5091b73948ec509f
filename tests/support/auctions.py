"""Small auctions for tests: few prices, sizes, people and zones, so that orders meet and tie.

Prices are counted in ticks of 1,000 micro here.
"""

from typing import Any

from hypothesis import strategies as st

from engine.auction.orders import AuctionOrder, Rules
from engine.market import Path
from engine.messages import Side
from tests.support.builders import A, path

TICK = 1_000


def rules(*paths: Path, **changes: Any) -> Rules:
    """One free zone, a corridor from 1 to 12 ticks, lots of 1 Wh."""
    return Rules(
        **{
            "tick_micro": TICK,
            "lot_wh": 1,
            "price_micro_min": TICK,
            "price_micro_max": 12 * TICK,
            "paths": paths or (path(),),
            **changes,
        }
    )


def listed(*wishes: tuple[Side, int, int, int] | tuple[Side, int, int, int, str]) -> list[AuctionOrder]:
    """Orders 1, 2, 3, ... in this order of priority, from (side, participant, price in ticks, Wh[, zone])."""
    return [
        AuctionOrder(number, participant, side, price * TICK, energy_wh, number, zone[0] if zone else A)
        for number, (side, participant, price, energy_wh, *zone) in enumerate(wishes, 1)
    ]


def wishes(
    zones: tuple[str, ...] = (A,), size_max: int = 9, price_max: int = 14
) -> st.SearchStrategy[list[AuctionOrder]]:
    """Order lists; price 0 is a market order, 13 and 14 are beyond the corridor."""
    one = st.tuples(
        st.sampled_from(Side), st.integers(1, 4), st.integers(0, price_max), st.integers(1, 4), st.sampled_from(zones)
    )
    return st.lists(one, max_size=size_max).map(lambda many: listed(*many))
