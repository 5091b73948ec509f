"""Stop orders: invisible until a trade at their stop price, or beyond it, triggers them; then orders like others.

    waiting  --a trade reaches the stop price-->  triggered  --FireStop, one entry each-->  in the book, or ended

A trade triggers the stops it passes in the order in which a price moving that way reaches them, by age at one price.
Each enters by an entry of its own: it has a place in time of its own, and a long row of them makes no long entry.
Source: docs/decisions/0042.
"""

from bisect import bisect_left, insort
from collections import deque
from typing import Final

from engine.book.side import Order
from engine.messages import OrderKind, Refused, RejectCode
from engine.units import PriceMicro

STOPS_MAX: Final = 10_000  # that may wait in a market
STOPS_OF_ONE_MAX: Final = 100  # and of one participant
STOP_KINDS: Final = frozenset({OrderKind.STOP, OrderKind.STOP_LIMIT})

_Key = tuple[int, int, int]  # the sooner it triggers, the smaller: stop price from the market's side, priority, id


class Stops:
    """The stop orders of one market that are in no book: those that wait, and those that were triggered, in order."""

    __slots__ = ("_orders", "_waiting", "triggered")

    def __init__(self) -> None:
        self._waiting: tuple[list[_Key], list[_Key]] = ([], [])  # sells, buys
        self._orders: dict[int, Order] = {}
        self.triggered: deque[int] = deque()  # order ids

    def __len__(self) -> int:
        return len(self._orders)

    def refusal(self, order: Order) -> Refused | None:
        """Whether there is no room for one more."""
        of_one = sum(other.is_waiting for other in order.account.orders.values())
        if of_one >= STOPS_OF_ONE_MAX:
            return Refused(RejectCode.CONFLICT, f"at most {STOPS_OF_ONE_MAX} stop orders of one participant may wait")
        if len(self) >= STOPS_MAX:
            return Refused(RejectCode.CONFLICT, f"at most {STOPS_MAX} stop orders may wait in a market")
        return None

    def add(self, order: Order) -> None:
        """The order waits from now on."""
        order.is_waiting = True
        self._orders[order.order_id] = order
        insort(self._waiting[order.is_buy], _key(order))

    def remove(self, order: Order) -> None:
        """The order waits no more, or is no more to enter the book."""
        if order.is_waiting:
            order.is_waiting = False
            del self._orders[order.order_id]
            keys, key = self._waiting[order.is_buy], _key(order)
            place = bisect_left(keys, key)
            assert keys[place] == key, order.order_id
            del keys[place]
        elif order.order_id in self.triggered:
            self.triggered.remove(order.order_id)

    def trigger(self, price_micro: PriceMicro) -> list[Order]:
        """Those that a trade at this price reaches, soonest first; they wait to be fired."""
        reached = []
        for keys, bound in zip(self._waiting, (-price_micro, price_micro), strict=True):
            while keys and keys[0][0] <= bound:
                order = self._orders.pop(keys.pop(0)[2])
                order.is_waiting = False
                self.triggered.append(order.order_id)
                reached.append(order)
        return reached


def is_reached(is_buy: bool, stop_micro: PriceMicro, price_micro: PriceMicro) -> bool:
    """Whether a trade at this price triggers such a stop; a price of 0 is none."""
    return price_micro != 0 and (price_micro >= stop_micro if is_buy else price_micro <= stop_micro)


def _key(order: Order) -> _Key:
    return (order.stop_micro if order.is_buy else -order.stop_micro, order.priority, order.order_id)
