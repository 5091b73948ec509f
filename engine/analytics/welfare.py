"""How near an epoch of continuous trading came to the best that its orders allowed, which is known only afterwards.

Welfare is what buyers would have paid at most, less what sellers would have taken at least, less the grid's part. The
best is what one auction of all the epoch's orders would have been worth (engine/auction): each with its last limit, and
with what it traded in the epoch and had left at its last change, as if whoever came and went had waited for the others.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from engine.auction.epoch import clear, outcome_of
from engine.auction.orders import AuctionOrder, rules_of
from engine.book.order_book import OrderBook
from engine.book.side import Order
from engine.messages import EpochOpened, Event, OrderAccepted, OrderId, Side, Traded
from engine.units import EnergyWh, MoneyMicro, TimeUs, value_micro

ORDERS_MAX: Final = 10_000  # of an epoch; the best of more than that is not looked for


class Welfare(Struct, frozen=True):
    """Of one epoch. best_micro is at least reached_micro: an auction's prices can make loss dearer than trades did."""

    start_us: TimeUs
    reached_micro: MoneyMicro
    best_micro: MoneyMicro


class Offers:
    """Follows a replica of a book: `last` is the newest epoch that ended while it was watched from its beginning.

    None: no such epoch yet, or it had auctions, too many orders, or none.
    """

    def __init__(self, book: OrderBook) -> None:
        self._book = book
        self._offered: dict[OrderId, tuple[Order, EnergyWh]] = {}  # with what had traded of it before the epoch
        self._reached_micro = 0
        self._rules = rules_of(book.spec)
        self._start_us: TimeUs = 0  # of the epoch that is watched; 0: none is
        self.last: Welfare | None = None

    def add(self, events: Sequence[Event]) -> None:
        """The book has just applied an entry with these events."""
        for event in events:
            if type(event) is EpochOpened:
                self.last = self._ended() if self._start_us else None
                self._begin(event.start_us)
            elif not self._start_us:
                continue
            elif type(event) is OrderAccepted:
                order = self._order(event.order_id)
                self._offered[event.order_id] = order, 0
                if len(self._offered) > ORDERS_MAX:
                    self._give_up()
            elif type(event) is Traded:
                self._reached_micro += self._worth(event)

    def _begin(self, start_us: TimeUs) -> None:
        """Whatever is open then was offered in the epoch before, and is in this one."""
        self._give_up()
        book = self._book
        if not book.spec.has_auctions and len(book.orders) <= ORDERS_MAX:
            self._start_us, self._reached_micro, self._rules = start_us, 0, rules_of(book.spec)
            self._offered = {number: (order, order.filled_wh) for number, order in book.orders.items()}

    def _give_up(self) -> None:
        self._start_us, self._offered = 0, {}

    def _ended(self) -> Welfare | None:
        orders = [
            AuctionOrder(
                order.order_id,
                order.placed.participant_id,
                order.placed.side,
                order.price_micro,
                order.filled_wh - filled_wh + order.remaining_wh,
                order.order_id,
                order.zone,
            )
            for order, filled_wh in self._offered.values()
            if not order.is_waiting and order.filled_wh - filled_wh + order.remaining_wh > 0
        ]
        if not orders:
            return None
        best_micro = outcome_of(clear(orders, self._book.spec.zones, self._rules), self._start_us).cleared.welfare_micro
        return Welfare(self._start_us, self._reached_micro, max(best_micro, self._reached_micro))

    def _worth(self, trade: Traded) -> MoneyMicro:
        """At the limits that the two orders have at this moment."""
        worth = -trade.grid_micro
        for number in (trade.maker_order_id, trade.taker_order_id):
            order = self._order(number)
            side = order.placed.side
            value = value_micro(self._rules.limit(side, order.price_micro), trade.energy_wh)
            worth += value if side is Side.BUY else -value
        return worth

    def _order(self, order_id: OrderId) -> Order:
        return self._book.orders.get(order_id) or self._book.closed[order_id]
