"""What a stretch of journal means for the tables that people query: pure arithmetic from entries and events to rows.

The persistence actor feeds `Projection` from its replica of the book and writes the `ProjectionBatch` in one
transaction with its cursor. Rows of one key are merged first, so a busy second costs few rows.
"""

from msgspec import Struct

from engine.market import Phase
from engine.messages import ParticipantId, Side
from engine.units import EnergyWh, MoneyMicro, PriceMicro, TimeUs
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
