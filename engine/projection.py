"""What a stretch of journal means for the tables that people query: pure arithmetic from entries and events to rows.

The persistence actor feeds `Projection` from its replica of the book and writes the `ProjectionBatch` in one
transaction with its cursor. Rows of one key are merged first, so a busy second costs few rows.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from engine.analytics.presence import Presence, PresenceChange
from engine.analytics.welfare import Offers
from engine.book.answers import order_view
from engine.book.order_book import OrderBook
from engine.market import Phase
from engine.messages import (
    CURRENCY,
    AuctionTraded,
    Defunded,
    Entry,
    EpochCleared,
    EpochClosed,
    EpochOpened,
    Event,
    OrderAccepted,
    OrderAmended,
    OrderEnded,
    OrderReduced,
    ParticipantId,
    Side,
    StopTriggered,
    Traded,
)
from engine.units import SECOND_US, EnergyWh, MoneyMicro, PriceMicro, TimeUs, epoch_start_us, value_micro
from engine.views import EpochPhase, OrderView

CANDLE_SECONDS = (60, 900, 3_600, 86_400)  # trades are gathered by the first; the others are multiples of it


class TradeRow(Struct, frozen=True, gc=False):
    """A trade with both sides' own prices, values and fees."""

    number: int
    sequence: int
    time_us: TimeUs
    epoch_start_us: TimeUs
    maker_order_id: int
    taker_order_id: int
    buyer_id: ParticipantId
    seller_id: ParticipantId
    taker_side: Side
    energy_wh: EnergyWh
    price_micro: PriceMicro
    buyer_price_micro: PriceMicro
    seller_price_micro: PriceMicro
    buyer_value_micro: MoneyMicro
    seller_value_micro: MoneyMicro
    buyer_fee_micro: MoneyMicro
    seller_fee_micro: MoneyMicro
    buyer_zone: str
    seller_zone: str
    by_auction: bool


class EpochChange(Struct, gc=False):
    """What became of an epoch: how far it is, and once it is cleared, by an auction or not, what came of it.

    cleared: without an auction only its welfare, and None where that is not known.
    certificate: JSON that `wattbook certificate verify` takes; None where there was no auction.
    """

    start_us: TimeUs
    phase: EpochPhase
    cleared: EpochCleared | None = None
    certificate: bytes | None = None


class PositionChange(Struct, gc=False):
    """To be added to the participant's position in the epoch. fees_micro is what both kinds of fee came to, net.

    charges_micro: what of the money paid was the grid's.
    """

    participant_id: ParticipantId
    epoch_start_us: TimeUs
    bought_wh: EnergyWh = 0
    sold_wh: EnergyWh = 0
    paid_micro: MoneyMicro = 0
    received_micro: MoneyMicro = 0
    fees_micro: MoneyMicro = 0
    trades: int = 0
    charges_micro: MoneyMicro = 0


class CandleChange(Struct, gc=False):
    """To be merged into the candle: open stays if there is one, high and low widen, close replaces, the rest adds."""

    seconds: int
    start_us: TimeUs
    open_micro: PriceMicro
    high_micro: PriceMicro
    low_micro: PriceMicro
    close_micro: PriceMicro
    volume_wh: EnergyWh = 0
    value_micro: MoneyMicro = 0  # at makers' own prices: value / volume is the VWAP
    trades: int = 0


class LedgerEntry(Struct, frozen=True, array_like=True, gc=False):
    """Adds `amount` (may be negative) to an account. participant_id 0: a system account.

    kind: main, market, fees, grid, issuance, generation, retired, custody. asset: the currency code or energy:<zone>.
    """

    kind: str
    participant_id: ParticipantId
    asset: str
    amount: int


class LedgerTransfer(Struct, frozen=True, gc=False):
    """Entries that sum to zero per asset. reference is unique for ever: the transfer is applied once."""

    kind: str  # trade, defund
    reference: str
    time_us: TimeUs
    entries: tuple[LedgerEntry, ...]


class ReservedAmount(Struct, frozen=True, gc=False):
    """What the participant has reserved in this market after the batch."""

    participant_id: ParticipantId
    asset: str
    amount: int


class ProjectionBatch(Struct, frozen=True):
    """All that changed from sequence_from (exclusive) to sequence_to (inclusive), merged by key.

    orders: those that were accepted before it, accepted: those that were not known before.
    """

    market_id: int
    sequence_from: int
    sequence_to: int
    time_us: TimeUs
    phase: Phase
    reference_price_micro: PriceMicro
    last_price_micro: PriceMicro
    epoch_start_us: TimeUs
    accepted: list[OrderView]
    orders: list[OrderView]
    trades: list[TradeRow]
    positions: list[PositionChange]
    candles: list[CandleChange]
    transfers: list[LedgerTransfer]
    reserved: list[ReservedAmount]
    epochs: list[EpochChange]
    presence: list[PresenceChange] = []


class Projection:
    """Gathers what a replica of a book goes through, until `take` hands it over as one batch."""

    def __init__(self, book: OrderBook, currency: str) -> None:
        self._book = book
        self._currency = currency
        self._from = book.sequence
        self._open_us = book.epoch_start_us
        self.presence = Presence(book)
        self._offers = Offers(book)
        self._clear()

    @property
    def entries(self) -> int:
        """How many entries have been gathered since the last `take`."""
        return self._book.sequence - self._from

    def add(self, entry: Entry, events: Sequence[Event]) -> None:
        """Gather one entry that the book has just applied."""
        book = self._book
        self.presence.add(events)
        self._offers.add(events)
        for event in events:  # by exact type: isinstance takes six times as long to say no to a Struct
            if type(event) is OrderAccepted:
                self._open[event.order_id] = None
                self._accepted.add(event.order_id)
            elif type(event) is OrderAmended or type(event) is OrderReduced or type(event) is StopTriggered:
                self._open[event.order_id] = None
            elif type(event) is Traded:
                self._trade(entry, event, book.epoch_start_us)
            elif type(event) is AuctionTraded:
                self._trade(entry, event, event.epoch_start_us)
            elif type(event) is OrderEnded:
                order = book.closed[event.order_id]
                self._orders[event.order_id] = order_view(order)  # as it ended: the book may forget it before `take`
                self._reserved[order.account.participant_id, order.asset] = None
            elif type(event) is Defunded:
                asset = self.ledger_asset(event.asset)
                self._transfers.append(
                    LedgerTransfer(
                        kind="defund",
                        reference=f"defund:{book.spec.market_id}:{event.number}",
                        time_us=entry.time_us,
                        entries=(
                            LedgerEntry("market", event.participant_id, asset, -event.amount),
                            LedgerEntry("main", event.participant_id, asset, event.amount),
                        ),
                    )
                )
            elif isinstance(event, (EpochOpened, EpochClosed, EpochCleared)):
                self._epoch(event)

    def take(self) -> ProjectionBatch:
        """Everything gathered since the last call; starts the next batch."""
        book = self._book
        for order_id in self._open:
            order = book.orders.get(order_id)
            if order is not None:
                self._orders[order_id] = order_view(order)
                self._reserved[order.account.participant_id, order.asset] = None
        reserved = []
        for participant_id, asset in self._reserved:
            account = book.accounts.get(participant_id)
            amount = account.reserved(asset) if account is not None else 0
            reserved.append(ReservedAmount(participant_id, self.ledger_asset(asset), amount))
        batch = ProjectionBatch(
            market_id=book.spec.market_id,
            sequence_from=self._from,
            sequence_to=book.sequence,
            time_us=book.time_us,
            phase=book.phase,
            reference_price_micro=book.reference.price_micro,
            last_price_micro=book.reference.last_price_micro,
            epoch_start_us=book.epoch_start_us,
            accepted=[order for order in self._orders.values() if order.order_id in self._accepted],
            orders=[order for order in self._orders.values() if order.order_id not in self._accepted],
            trades=self._trades,
            positions=list(self._positions.values()),
            candles=_with_coarser(list(self._minutes.values())),
            transfers=self._transfers,
            reserved=reserved,
            epochs=list(self._epochs.values()),
            presence=self.presence.take(),
        )
        self._from = book.sequence
        self._clear()
        return batch

    def ledger_asset(self, asset: str) -> str:
        """The ledger's name of an asset inside a market."""
        return self._currency if asset == CURRENCY else f"energy:{asset}"

    def _clear(self) -> None:
        self._orders: dict[int, OrderView] = {}
        self._open: dict[int, None] = {}
        self._accepted: set[int] = set()
        self._trades: list[TradeRow] = []
        self._positions: dict[tuple[int, int], PositionChange] = {}
        self._minutes: dict[TimeUs, CandleChange] = {}  # by start, the earliest first
        self._transfers: list[LedgerTransfer] = []
        self._reserved: dict[tuple[ParticipantId, str], None] = {}
        self._epochs: dict[TimeUs, EpochChange] = {}

    def _epoch(self, event: EpochOpened | EpochClosed | EpochCleared) -> None:
        book, start_us = self._book, event.start_us
        match event:
            case EpochOpened():
                self._epochs[start_us] = EpochChange(start_us, EpochPhase.OPEN)
                if self._open_us and not book.spec.has_auctions:  # that is over, and there is nothing to clear
                    self._epochs[self._open_us] = EpochChange(self._open_us, EpochPhase.CLEARED, self._traded_on())
                self._open_us = start_us
            case EpochClosed():
                self._epochs[start_us] = EpochChange(start_us, EpochPhase.CLEARING)
            case EpochCleared():
                certificate = book.certificate if event.orders else None
                encoded = msgspec.json.encode(certificate) if certificate is not None else None
                self._epochs[start_us] = EpochChange(start_us, EpochPhase.CLEARED, event, encoded)

    def _traded_on(self) -> EpochCleared | None:
        """Of a continuous epoch: what its trades were worth, beside the best that its orders allowed."""
        welfare = self._offers.last
        if welfare is None or welfare.start_us != self._open_us:
            return None
        return EpochCleared(self._open_us, welfare_micro=welfare.reached_micro, welfare_max_micro=welfare.best_micro)

    def _trade(self, entry: Entry, trade: Traded, epoch_us: TimeUs) -> None:
        book = self._book
        self._open[trade.maker_order_id] = self._open[trade.taker_order_id] = None
        self._trades.append(
            TradeRow(
                trade.number,
                entry.sequence,
                entry.time_us,
                epoch_us,
                trade.maker_order_id,
                trade.taker_order_id,
                trade.buyer_id,
                trade.seller_id,
                trade.taker_side,
                trade.energy_wh,
                trade.price_micro,
                trade.buyer_price_micro,
                trade.seller_price_micro,
                trade.buyer_value_micro,
                trade.seller_value_micro,
                trade.buyer_fee_micro,
                trade.seller_fee_micro,
                trade.buyer_zone,
                trade.seller_zone,
                isinstance(trade, AuctionTraded),
            )
        )
        buyer = self._position(trade.buyer_id, epoch_us)
        buyer.bought_wh += trade.energy_wh
        buyer.paid_micro += trade.buyer_value_micro
        buyer.fees_micro += trade.buyer_fee_micro
        buyer.charges_micro += trade.grid_micro
        buyer.trades += 1
        seller = self._position(trade.seller_id, epoch_us)
        seller.sold_wh += trade.energy_wh
        seller.received_micro += trade.seller_value_micro
        seller.fees_micro += trade.seller_fee_micro
        seller.trades += 1
        # an auction's trades are its epoch's, although the epoch is over when they are made
        last_us = epoch_us + book.spec.epoch_us - 1 if isinstance(trade, AuctionTraded) else entry.time_us
        self._candle(min(entry.time_us, last_us), trade)
        self._transfers.append(
            LedgerTransfer("trade", f"trade:{book.spec.market_id}:{trade.number}", entry.time_us, self._entries(trade))
        )

    def _position(self, participant_id: ParticipantId, epoch_us: TimeUs) -> PositionChange:
        position = self._positions.get((participant_id, epoch_us))
        if position is None:
            position = self._positions[participant_id, epoch_us] = PositionChange(participant_id, epoch_us)
        return position

    def _candle(self, time_us: TimeUs, trade: Traded) -> None:
        price, value = trade.price_micro, value_micro(trade.price_micro, trade.energy_wh)
        start_us = epoch_start_us(time_us, CANDLE_SECONDS[0] * SECOND_US)
        traded = CandleChange(CANDLE_SECONDS[0], start_us, price, price, price, price, trade.energy_wh, value, 1)
        _merge(self._minutes, start_us, traded)

    def _entries(self, trade: Traded) -> tuple[LedgerEntry, ...]:
        """Money from buyer to seller, grid and fees; energy the other way, through the grid when zones differ."""
        sold, bought = self.ledger_asset(trade.seller_zone), self.ledger_asset(trade.buyer_zone)
        money, energy_wh = self._currency, trade.energy_wh
        entries = [
            LedgerEntry("market", trade.buyer_id, money, -trade.buyer_value_micro - trade.buyer_fee_micro),
            LedgerEntry("market", trade.seller_id, money, trade.seller_value_micro - trade.seller_fee_micro),
            LedgerEntry(f"grid:{trade.buyer_zone}", 0, money, trade.buyer_value_micro - trade.seller_value_micro),
            LedgerEntry("fees", 0, money, trade.buyer_fee_micro + trade.seller_fee_micro),
            LedgerEntry("market", trade.seller_id, sold, -energy_wh),
            LedgerEntry("market", trade.buyer_id, bought, energy_wh),
        ]
        if sold != bought:
            entries.append(LedgerEntry(f"grid:{trade.seller_zone}", 0, sold, energy_wh))
            entries.append(LedgerEntry(f"grid:{trade.buyer_zone}", 0, bought, -energy_wh))
        return tuple([entry for entry in entries if entry.amount])


def _with_coarser(minutes: list[CandleChange]) -> list[CandleChange]:
    """The minutes, and behind them the longer candles that they make."""
    candles = list(minutes)
    for seconds in CANDLE_SECONDS[1:]:
        longer: dict[TimeUs, CandleChange] = {}
        for minute in minutes:
            start_us = epoch_start_us(minute.start_us, seconds * SECOND_US)
            _merge(longer, start_us, msgspec.structs.replace(minute, seconds=seconds, start_us=start_us))
        candles += longer.values()
    return candles


def _merge(candles: dict[TimeUs, CandleChange], start_us: TimeUs, later: CandleChange) -> None:
    """Add to the candle what came after it."""
    candle = candles.setdefault(start_us, later)
    if candle is later:
        return
    candle.high_micro = max(candle.high_micro, later.high_micro)
    candle.low_micro = min(candle.low_micro, later.low_micro)
    candle.close_micro = later.close_micro
    candle.volume_wh += later.volume_wh
    candle.value_micro += later.value_micro
    candle.trades += later.trades
