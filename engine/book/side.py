"""One side of the book in one zone: price levels in order, each a queue in order of time.

Priority is price, then the sequence at which an order got its present place. Placing, taking out and reading the best
are constant time, but for the sorted list of prices, which moves a few kilobytes when a level comes or goes.
"""

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Final

from engine.accounts import Account
from engine.messages import CURRENCY, PlaceOrder, Side, TimeInForce
from engine.units import EnergyWh, MoneyMicro, PriceMicro, TimeUs

if TYPE_CHECKING:
    from engine.book.lanes import Lane

_RESTING: Final = (TimeInForce.GTC, TimeInForce.GTD)


class Order:
    """An order and all that has become of it. `placed` is the command, for ever as it came; at `home` it rests."""

    __slots__ = (
        "account",
        "asset",
        "created_us",
        "digest",
        "digested_sequence",
        "end_reason",
        "expires_us",
        "fee_numerator",
        "fees",
        "filled_wh",
        "home",
        "is_buy",
        "is_waiting",
        "level",
        "newer",
        "older",
        "order_id",
        "placed",
        "price_micro",
        "priority",
        "quantity_wh",
        "remaining_wh",
        "reserved_micro",
        "stop_micro",
        "updated_sequence",
        "updated_us",
        "value_micro",
        "zone",
    )

    def __init__(
        self,
        order_id: int,
        placed: PlaceOrder,
        account: Account,
        home: "BookSide",
        price_micro: PriceMicro,
        created_us: TimeUs,
    ) -> None:
        self.order_id = order_id
        self.placed = placed
        self.account = account
        self.home = home
        self.is_buy = home.is_buy
        self.zone = placed.zone
        self.asset = CURRENCY if home.is_buy else placed.zone  # what backs it
        self.price_micro = price_micro
        self.quantity_wh: EnergyWh = placed.quantity_wh
        self.remaining_wh: EnergyWh = placed.quantity_wh
        self.filled_wh: EnergyWh = 0
        self.value_micro: MoneyMicro = 0  # of its fills, at this side's own prices
        self.fees = account.fees
        self.fee_numerator = 0  # what its fees so far come to beyond whole micros, in 1/10,000 micro
        self.reserved_micro: MoneyMicro = 0  # a buy order's part of cash_reserved
        self.priority = order_id
        self.stop_micro = placed.stop_price_micro
        self.is_waiting = False  # for a trade at its stop price
        self.expires_us: TimeUs = 0
        self.created_us = created_us
        self.updated_us = created_us
        self.updated_sequence = order_id
        self.end_reason = 0  # an EndReason once the order has ended
        self.digest = 0  # state.digest keeps here what it made of the order when
        self.digested_sequence = 0  # updated_sequence was this
        self.level: Level | None = None
        self.older: Order | None = None  # neighbours in the level's queue
        self.newer: Order | None = None

    @property
    def may_rest(self) -> bool:
        return self.placed.time_in_force in _RESTING


class Level:
    """All orders at one price, oldest first."""

    __slots__ = ("count", "newest", "oldest", "price_micro", "total_wh")

    def __init__(self, price_micro: PriceMicro) -> None:
        self.price_micro = price_micro
        self.total_wh: EnergyWh = 0
        self.count = 0
        self.oldest: Order | None = None
        self.newest: Order | None = None


class BookSide:
    """Bids or asks of one zone. `best` is the level that trades first; `lanes` lead to the sides it trades with."""

    __slots__ = ("_keys", "_levels", "best", "is_buy", "lanes", "side", "sign", "touched")

    def __init__(self, side: Side) -> None:
        self.side = side
        self.is_buy = side is Side.BUY
        self.sign = 1 if self.is_buy else -1  # the best key is always the largest, at the list's cheap end
        self.lanes: tuple[Lane, ...] = ()  # the book binds them
        self._keys: list[int] = []
        self._levels: dict[int, Level] = {}
        self.best: Level | None = None
        self.touched: set[PriceMicro] = set()  # prices whose level changed since someone last looked

    def add(self, order: Order) -> None:
        """Put the order into its price's queue, at the place that its priority gives it: nearly always the end."""
        price = order.price_micro
        level = self._levels.get(price)
        if level is None:
            level = self._levels[price] = Level(price)
            key = price * self.sign
            insort(self._keys, key)
            if self._keys[-1] == key:
                self.best = level
        older, newer = level.newest, None
        while older is not None and older.priority > order.priority:  # only an order that comes back to its old place
            older, newer = older.older, older
        order.level = level
        order.older, order.newer = older, newer
        if older is None:
            level.oldest = order
        else:
            older.newer = order
        if newer is None:
            level.newest = order
        else:
            newer.older = order
        level.total_wh += order.remaining_wh
        level.count += 1
        self.touched.add(price)

    def remove(self, order: Order) -> None:
        """Take the order out of its queue; a level without orders goes too."""
        level = order.level
        assert level is not None, order.order_id
        older, newer = order.older, order.newer
        if older is None:
            level.oldest = newer
        else:
            older.newer = newer
        if newer is None:
            level.newest = older
        else:
            newer.older = older
        order.level = order.older = order.newer = None
        level.total_wh -= order.remaining_wh
        level.count -= 1
        price = level.price_micro
        self.touched.add(price)
        if level.oldest is None:
            del self._levels[price]
            keys = self._keys
            del keys[bisect_left(keys, price * self.sign)]
            if level is self.best:
                self.best = self._levels[keys[-1] * self.sign] if keys else None

    def reduce(self, order: Order, by_wh: EnergyWh) -> None:
        """The order stays in its place with less."""
        level = order.level
        assert level is not None, order.order_id
        order.remaining_wh -= by_wh
        level.total_wh -= by_wh
        self.touched.add(level.price_micro)

    def next_after(self, depth: int) -> Level | None:
        """The level `depth` places behind the best."""
        keys = self._keys
        return self._levels[keys[-1 - depth] * self.sign] if depth < len(keys) else None

    def level_at(self, price_micro: PriceMicro) -> Level | None:
        return self._levels.get(price_micro)

    def levels(self) -> list[Level]:
        """Best first."""
        return [self._levels[key * self.sign] for key in reversed(self._keys)]
