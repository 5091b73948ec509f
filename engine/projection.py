"""What a stretch of journal means for the tables that people query: pure arithmetic from entries and events to rows.

The persistence actor feeds `Projection` from its replica of the book and writes the `ProjectionBatch` in one
transaction with its cursor. Rows of one key are merged first, so a busy second costs few rows.
"""

from collections.abc import Sequence

from msgspec import Struct

from engine.book.answers import order_view
from engine.book.order_book import OrderBook
from engine.book.side import Order
from engine.market import Phase
from engine.messages import (
    CURRENCY,
    Defunded,
    Entry,
    Event,
    OrderAccepted,
    OrderAmended,
    OrderEnded,
    OrderReduced,
    ParticipantId,
    Side,
    Traded,
)
from engine.units import SECOND_US, EnergyWh, MoneyMicro, PriceMicro, TimeUs, epoch_start_us, value_micro
from engine.views import OrderView

CANDLE_SECONDS = (60, 900, 3_600, 86_400)


class TradeRow(Struct, frozen=True):
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


class PositionChange(Struct):
    """To be added to the participant's position in the epoch. fees_micro is what both kinds of fee came to, net."""

    participant_id: ParticipantId
    epoch_start_us: TimeUs
    bought_wh: EnergyWh = 0
    sold_wh: EnergyWh = 0
    paid_micro: MoneyMicro = 0
    received_micro: MoneyMicro = 0
    fees_micro: MoneyMicro = 0
    trades: int = 0


class CandleChange(Struct):
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


class LedgerEntry(Struct, frozen=True, array_like=True):
    """Adds `amount` (may be negative) to an account. participant_id 0: a system account.

    kind: main, market, fees, grid, issuance, generation, retired, custody. asset: the currency code or energy:<zone>.
    """

    kind: str
    participant_id: ParticipantId
    asset: str
    amount: int


class LedgerTransfer(Struct, frozen=True):
    """Entries that sum to zero per asset. reference is unique for ever: the transfer is applied once."""

    kind: str  # trade, defund
    reference: str
    time_us: TimeUs
    entries: tuple[LedgerEntry, ...]


class ReservedAmount(Struct, frozen=True):
    """What the participant has reserved in this market after the batch."""

    participant_id: ParticipantId
    asset: str
    amount: int


class ProjectionBatch(Struct, frozen=True):
    """All that changed from sequence_from (exclusive) to sequence_to (inclusive), merged by key."""

    market_id: int
    sequence_from: int
    sequence_to: int
    time_us: TimeUs
    phase: Phase
    reference_price_micro: PriceMicro
    last_price_micro: PriceMicro
    epoch_start_us: TimeUs
    orders: list[OrderView]
    trades: list[TradeRow]
    positions: list[PositionChange]
    candles: list[CandleChange]
    transfers: list[LedgerTransfer]
    reserved: list[ReservedAmount]


class Projection:
    """Gathers what a replica of a book goes through, until `take` hands it over as one batch."""

    def __init__(self, book: OrderBook, currency: str) -> None:
        self._book = book
        self._currency = currency
        self._from = book.sequence
        self._clear()

    @property
    def entries(self) -> int:
        """How many entries have been gathered since the last `take`."""
        return self._book.sequence - self._from

    def add(self, entry: Entry, events: Sequence[Event]) -> None:
        """Gather one entry that the book has just applied."""
        book = self._book
        for event in events:
            if isinstance(event, Traded):
                self._trade(entry, event)
            elif isinstance(event, OrderEnded):
                order = book.closed[event.order_id]
                self._orders[event.order_id] = order_view(order)  # as it ended: the book may forget it before `take`
                self._reserved[_backing(order)] = None
            elif isinstance(event, OrderAccepted | OrderAmended | OrderReduced):
                self._open_order(event.order_id)
            elif isinstance(event, Defunded):
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

    def take(self) -> ProjectionBatch:
        """Everything gathered since the last call; starts the next batch."""
        book = self._book
        for order_id in self._open:
            order = book.orders.get(order_id)
            if order is not None:
                self._orders[order_id] = order_view(order)
                self._reserved[_backing(order)] = None
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
            orders=list(self._orders.values()),
            trades=self._trades,
            positions=list(self._positions.values()),
            candles=list(self._candles.values()),
            transfers=self._transfers,
            reserved=reserved,
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
        self._trades: list[TradeRow] = []
        self._positions: dict[tuple[int, int], PositionChange] = {}
        self._candles: dict[tuple[int, int], CandleChange] = {}
        self._transfers: list[LedgerTransfer] = []
        self._reserved: dict[tuple[ParticipantId, str], None] = {}

    def _open_order(self, order_id: int) -> None:
        self._open[order_id] = None

    def _trade(self, entry: Entry, trade: Traded) -> None:
        book = self._book
        epoch_us = epoch_start_us(entry.time_us, book.spec.epoch_us)
        self._open_order(trade.maker_order_id)
        self._open_order(trade.taker_order_id)
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
            )
        )
        buyer = self._position(trade.buyer_id, epoch_us)
        buyer.bought_wh += trade.energy_wh
        buyer.paid_micro += trade.buyer_value_micro
        buyer.fees_micro += trade.buyer_fee_micro
        buyer.trades += 1
        seller = self._position(trade.seller_id, epoch_us)
        seller.sold_wh += trade.energy_wh
        seller.received_micro += trade.seller_value_micro
        seller.fees_micro += trade.seller_fee_micro
        seller.trades += 1
        for seconds in CANDLE_SECONDS:
            self._candle(seconds, entry.time_us, trade)
        self._transfers.append(
            LedgerTransfer("trade", f"trade:{book.spec.market_id}:{trade.number}", entry.time_us, self._entries(trade))
        )

    def _position(self, participant_id: ParticipantId, epoch_us: TimeUs) -> PositionChange:
        key = (participant_id, epoch_us)
        if key not in self._positions:
            self._positions[key] = PositionChange(participant_id, epoch_us)
        return self._positions[key]

    def _candle(self, seconds: int, time_us: TimeUs, trade: Traded) -> None:
        price, start_us = trade.price_micro, epoch_start_us(time_us, seconds * SECOND_US)
        candle = self._candles.get((seconds, start_us))
        if candle is None:
            candle = self._candles[seconds, start_us] = CandleChange(seconds, start_us, price, price, price, price)
        candle.high_micro = max(candle.high_micro, price)
        candle.low_micro = min(candle.low_micro, price)
        candle.close_micro = price
        candle.volume_wh += trade.energy_wh
        candle.value_micro += value_micro(price, trade.energy_wh)
        candle.trades += 1

    def _entries(self, trade: Traded) -> tuple[LedgerEntry, ...]:
        """Money from buyer to seller, grid and fees; energy the other way, through the grid when zones differ."""
        sold, bought = self.ledger_asset(trade.seller_zone), self.ledger_asset(trade.buyer_zone)
        money, energy_wh = self._currency, trade.energy_wh
        entries = [
            LedgerEntry("market", trade.buyer_id, money, -trade.buyer_value_micro - trade.buyer_fee_micro),
            LedgerEntry("market", trade.seller_id, money, trade.seller_value_micro - trade.seller_fee_micro),
            LedgerEntry(f"grid:{trade.buyer_zone}", 0, money, trade.grid_micro),
            LedgerEntry("fees", 0, money, trade.buyer_fee_micro + trade.seller_fee_micro),
            LedgerEntry("market", trade.seller_id, sold, -energy_wh),
            LedgerEntry("market", trade.buyer_id, bought, energy_wh),
        ]
        if sold != bought:
            entries.append(LedgerEntry(f"grid:{trade.seller_zone}", 0, sold, energy_wh))
            entries.append(LedgerEntry(f"grid:{trade.buyer_zone}", 0, bought, -energy_wh))
        return tuple(entry for entry in entries if entry.amount)


def _backing(order: Order) -> tuple[ParticipantId, str]:
    """Whose funds of which asset back the order."""
    return order.placed.participant_id, order.asset
