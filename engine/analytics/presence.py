"""How long market makers quoted, as their orders in the book say: the time from one entry to the next, by epoch.

Somebody quotes while one bid and one ask of his rest, each of at least his size, and not further apart than his spread:
(ask - bid) / middle <= spread. Prices are his own, at his meter; his best orders of that size count.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from engine.book.answers import changed_orders
from engine.book.order_book import OrderBook
from engine.messages import Event, ParticipantId
from engine.units import BPS, EnergyWh, TimeUs, epoch_start_us


class Obligation(Struct, frozen=True):
    """What a market maker has promised; spread in basis points of the price in the middle."""

    participant_id: ParticipantId
    spread_bps_max: int
    size_wh_min: EnergyWh


class PresenceChange(Struct, gc=False):
    """To be added to what the participant has quoted in the epoch."""

    participant_id: ParticipantId
    epoch_start_us: TimeUs
    quoted_us: int = 0


class Presence:
    """Follows a replica of a book; `take` hands over what was measured since the last time."""

    def __init__(self, book: OrderBook) -> None:
        self._book = book
        self._obligations: dict[ParticipantId, Obligation] = {}
        self._since: dict[ParticipantId, TimeUs] = {}  # who quotes, and from when it was not counted yet
        self._measured: dict[tuple[ParticipantId, TimeUs], PresenceChange] = {}

    def oblige(self, obligations: Iterable[Obligation]) -> None:
        """From the book's present instant on these are to be measured, and nobody else."""
        self._count()
        self._obligations = {one.participant_id: one for one in obligations}
        self._since = {one: self._book.time_us for one in self._obligations if self._quotes(one)}

    def add(self, events: Sequence[Event]) -> None:
        """The book has just applied an entry with these events."""
        if not self._obligations:
            return
        book, now_us = self._book, self._book.time_us
        for order_id in changed_orders(events):
            order = book.orders.get(order_id) or book.closed[order_id]
            participant_id = order.placed.participant_id
            if participant_id not in self._obligations:
                continue
            quotes, since_us = self._quotes(participant_id), self._since.get(participant_id)
            if quotes and since_us is None:
                self._since[participant_id] = now_us
            elif since_us is not None and not quotes:
                self._credit(participant_id, self._since.pop(participant_id), now_us)

    def take(self) -> list[PresenceChange]:
        self._count()
        measured, self._measured = list(self._measured.values()), {}
        return measured

    def _count(self) -> None:
        for participant_id, since_us in self._since.items():
            self._credit(participant_id, since_us, self._book.time_us)
            self._since[participant_id] = self._book.time_us

    def _quotes(self, participant_id: ParticipantId) -> bool:
        account, obligation = self._book.accounts.get(participant_id), self._obligations[participant_id]
        if account is None:
            return False
        bid = ask = 0
        for order in account.orders.values():
            if order.level is None or order.remaining_wh < obligation.size_wh_min:
                continue
            if order.is_buy:
                bid = max(bid, order.price_micro)
            else:
                ask = min(ask or order.price_micro, order.price_micro)
        return bool(bid and ask) and 2 * (ask - bid) * BPS <= obligation.spread_bps_max * (ask + bid)

    def _credit(self, participant_id: ParticipantId, from_us: TimeUs, to_us: TimeUs) -> None:
        """Each epoch gets its part of the time."""
        epoch_us = self._book.spec.epoch_us
        while from_us < to_us:
            start_us = epoch_start_us(from_us, epoch_us)
            until_us = min(to_us, start_us + epoch_us)
            key = (participant_id, start_us)
            change = self._measured.setdefault(key, PresenceChange(participant_id, start_us))
            change.quoted_us += until_us - from_us
            from_us = until_us


def presence_bps(quoted_us: int, epoch_us: int) -> int:
    """Of an epoch's time, rounded down."""
    return min(quoted_us * BPS // epoch_us, BPS)


def rebate_micro(value_micro: int, fees_micro: int, rebate_bps: int) -> int:
    """Of what traded with the maker's resting orders, and never more than the fees of those trades."""
    return max(0, min(value_micro * rebate_bps // BPS, fees_micro))
