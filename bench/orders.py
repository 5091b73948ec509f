"""The orders that benches send: bids and asks around one price, half of which trade; the same for the same seed."""

import random
from typing import Final

from msgspec import Struct

MARKET: Final = "CAMPUS"
PRICE_MICRO: Final = 3_500_000
LANDING_MICRO: Final = 600_000  # what wheeling and loss add until an ask has landed


class Wish(Struct, frozen=True):
    """One order before anybody has signed it. side: 0 buy, 1 sell."""

    side: int
    quantity_wh: int
    price_micro: int
    market: str = MARKET

    def fields(self, client_order_id: str) -> dict[str, str]:
        """As POST /orders takes it."""
        return {
            "market": self.market,
            "side": "sell" if self.side else "buy",
            "type": "limit",
            "quantity": f"{self.quantity_wh // 1_000}.{self.quantity_wh % 1_000:03d}",
            "price": f"{self.price_micro // 1_000_000}.{self.price_micro % 1_000_000 // 1_000:03d}",
            "client_order_id": client_order_id,
        }


def wish(
    random_: random.Random,
    markets: tuple[str, ...] = (MARKET,),
    price_micro: int = PRICE_MICRO,
    only_side: int | None = None,
) -> Wish:
    """The next order of this chance."""
    side = random_.choice((0, 1))
    side = side if only_side is None else only_side
    price_micro += random_.randrange(-100, 100) * 1_000 - side * LANDING_MICRO
    market = random_.choice(markets)
    return Wish(side, random_.randrange(1, 20) * 100, price_micro, market)


def wishes(count: int, seed: int, only_side: int | None = None) -> list[Wish]:
    """`count` orders for CAMPUS."""
    random_ = random.Random(seed)
    return [wish(random_, only_side=only_side) for _ in range(count)]
