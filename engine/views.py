"""What a market shows of itself: answers, queries, feeds. These cross the data plane between gateways and actors.

All values are integers in the engine's units; the gateway alone turns them into decimals and RFC 3339.
"""

from enum import IntEnum
from typing import Final, TypeAlias

from msgspec import Struct

from engine.market import MarketSpec, Phase
from engine.messages import EndReason, OrderId, OrderKind, ParticipantId, RejectCode, Side, TimeInForce
from engine.units import EnergyWh, MoneyMicro, PriceMicro, TimeUs


class OrderStatus(IntEnum):
    OPEN = 1
    PARTIALLY_FILLED = 2
    FILLED = 3
    CANCELLED = 4
    EXPIRED = 5


class Liquidity(IntEnum):
    MAKER = 0
    TAKER = 1


class OrderView(Struct, frozen=True, array_like=True, gc=False):
    """An order as of `sequence`. value_micro is what its fills paid or received so far, fees apart."""

    order_id: OrderId
    participant_id: ParticipantId
    client_order_id: str
    side: Side
    kind: OrderKind
    price_micro: PriceMicro
    quantity_wh: EnergyWh
    filled_wh: EnergyWh
    remaining_wh: EnergyWh
    value_micro: MoneyMicro
    status: OrderStatus
    end_reason: int  # EndReason, 0 while the order is open
    time_in_force: TimeInForce
    expires_us: TimeUs
    post_only: bool
    zone: str
    created_us: TimeUs
    updated_us: TimeUs
    sequence: int
    stop_price_micro: PriceMicro = 0  # of a stop order
    is_waiting: bool = False  # for a trade at its stop price


class FillView(Struct, frozen=True, array_like=True, gc=False):
    """One side's part in a trade: price, value and fee are this side's own."""

    trade_number: int
    order_id: OrderId
    side: Side
    price_micro: PriceMicro
    quantity_wh: EnergyWh
    value_micro: MoneyMicro
    fee_micro: MoneyMicro
    liquidity: Liquidity
    at_us: TimeUs


# --- answers to commands --------------------------------------------------------------------------------------------


class OrderAnswer(Struct, frozen=True, array_like=True, tag=1):
    """The order after a place, amend or cancel, with the fills that this very command made."""

    order: OrderView
    fills: tuple[FillView, ...] = ()
    repeated: bool = False


class Refusal(Struct, frozen=True, array_like=True, tag=2, gc=False):
    code: RejectCode
    detail: str


class Applied(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """A command without an order of its own was applied; `count` orders ended, or assets were given back."""

    sequence: int
    count: int = 0


class Fault(IntEnum):
    """Why there is no answer; the caller may repeat with the same client_order_id."""

    OUTCOME_UNKNOWN = 1
    OVERLOADED = 2
    UNAVAILABLE = 3


class Failed(Struct, frozen=True, array_like=True, tag=4, gc=False):
    fault: Fault
    detail: str


# --- queries and their answers ----------------------------------------------------------------------------------------


class GetOrder(Struct, frozen=True, array_like=True, tag=101, gc=False):
    """By order_id, or (0) by client_order_id. Answer: OrderAnswer, or Refusal NOT_FOUND."""

    participant_id: ParticipantId
    order_id: OrderId = 0
    client_order_id: str = ""


class ListOpenOrders(Struct, frozen=True, array_like=True, tag=102, gc=False):
    """Answer: Orders, oldest first."""

    participant_id: ParticipantId
    limit: int = 1_000
    after_order_id: OrderId = 0


class GetBook(Struct, frozen=True, array_like=True, tag=103, gc=False):
    """zone "": makers' own prices; else as seen from that zone. Answer: BookView."""

    depth: int = 20
    zone: str = ""


class GetMarket(Struct, frozen=True, array_like=True, tag=104, gc=False):
    """Answer: MarketView."""


class Watch(Struct, frozen=True, array_like=True, tag=105):
    """What this connection wants pushed from now on; replaces what it wanted before. Answer: BookView at full depth.

    Frames after the answer continue exactly behind its sequence.
    """

    book: bool
    participants: tuple[ParticipantId, ...] = ()


class Await(Struct, frozen=True, array_like=True, tag=106, gc=False):
    """Somebody waits until the tables have come to this sequence: who follows the journal is told. Answer: Applied."""

    sequence: int


Query: TypeAlias = GetOrder | ListOpenOrders | GetBook | GetMarket | Watch | Await


class Orders(Struct, frozen=True, array_like=True, tag=5):
    items: tuple[OrderView, ...]


class Level(Struct, frozen=True, array_like=True, gc=False):
    price_micro: PriceMicro
    quantity_wh: EnergyWh
    orders: int


class BookView(Struct, frozen=True, array_like=True, tag=6):
    """Best first on both sides."""

    sequence: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


class MarketView(Struct, frozen=True, array_like=True, tag=7):
    sequence: int
    spec: MarketSpec
    phase: Phase
    epoch_start_us: TimeUs
    reference_price_micro: PriceMicro
    last_price_micro: PriceMicro  # 0 before the first trade
    open_orders: int
    trades: int
    halted_until_us: TimeUs = 0  # of a volatility halt; 0: there is none


Answer: TypeAlias = OrderAnswer | Refusal | Applied | Failed | Orders | BookView | MarketView


# --- feed: pushed after each commit -----------------------------------------------------------------------------------


class LevelChange(Struct, frozen=True, array_like=True, gc=False):
    """What rests at this price now, over all zones; quantity 0: the level is gone."""

    side: Side
    price_micro: PriceMicro
    quantity_wh: EnergyWh
    orders: int


class TradeView(Struct, frozen=True, array_like=True, gc=False):
    """A trade as the public sees it."""

    number: int
    sequence: int
    price_micro: PriceMicro
    quantity_wh: EnergyWh
    taker_side: Side
    buyer_zone: str
    seller_zone: str
    at_us: TimeUs


class OrderUpdate(Struct, frozen=True, array_like=True):
    """A watched participant's order after a command, with the fills it got from it."""

    order: OrderView
    fills: tuple[FillView, ...]


class Feed(Struct, frozen=True, array_like=True, tag=301):
    """One commit's news. changes: every level that it changed, as it is now; they and trades only for book watchers.

    is_awaited: no news, but somebody waits until the tables have come to the sequence.
    """

    market_id: int
    sequence: int
    changes: tuple[LevelChange, ...]
    trades: tuple[TradeView, ...]
    updates: tuple[OrderUpdate, ...]
    phase: Phase
    halted_until_us: TimeUs = 0
    is_awaited: bool = False


def status_of(filled_wh: EnergyWh, end_reason: int) -> OrderStatus:
    """The status that the API shows for an order."""
    if end_reason:
        return _STATUS_AT_END[end_reason]
    return _PARTIALLY_FILLED if filled_wh else _OPEN


_OPEN: Final = OrderStatus.OPEN
_PARTIALLY_FILLED: Final = OrderStatus.PARTIALLY_FILLED
_STATUS_AT_END: Final[dict[int, OrderStatus]] = {
    **dict.fromkeys(EndReason, OrderStatus.CANCELLED),
    EndReason.FILLED: OrderStatus.FILLED,
    EndReason.EXPIRED: OrderStatus.EXPIRED,
}
