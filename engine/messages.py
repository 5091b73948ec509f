"""The whole language of the order book: commands, events, entries, refusals.

command -> shell adds sequence and instant -> Entry -> apply -> events

A journal holds entries for ever, so the tags and field positions below are a file format: append fields with
defaults, never reorder them, never reuse a tag. Zero and the empty string mean "not given".
"""

from enum import IntEnum
from typing import Final, TypeAlias

from msgspec import Struct

from engine.market import MarketSpec, Phase, RiskLimits
from engine.units import EnergyWh, MoneyMicro, PriceMicro, TimeUs

ENGINE_VERSION: Final = 4  # changes whenever the same entries could give other events, or a state other bytes
VERSIONS_REPLAYED: Final = frozenset({2, 3, 4})  # whose entries give the same events now as they did then

ParticipantId: TypeAlias = int
OrderId: TypeAlias = int  # the sequence of the entry that placed the order
CURRENCY: Final = ""  # as an asset inside a market: money; any other name is a zone, and means energy in that zone


class Side(IntEnum):
    BUY = 0
    SELL = 1


class OrderKind(IntEnum):
    """A market order is one whose limit the participant left to the market; it never rests.

    A stop order waits until a trade reaches its stop price; then it is a market order, or a limit order.
    """

    LIMIT = 1
    MARKET = 2
    STOP = 3
    STOP_LIMIT = 4


class TimeInForce(IntEnum):
    GTC = 1
    GTD = 2
    IOC = 3
    FOK = 4


class SelfTrade(IntEnum):
    """What happens when an order meets another one of the same participant."""

    CANCEL_NEWEST = 1
    CANCEL_OLDEST = 2
    CANCEL_BOTH = 3
    DECREMENT = 4


class EndReason(IntEnum):
    FILLED = 1
    CANCELLED_BY_OWNER = 2
    CANCELLED_BY_ADMIN = 3
    EXPIRED = 4
    IOC_REMAINDER = 5
    FOK_UNFILLABLE = 6
    SELF_TRADE = 7
    POST_ONLY_WOULD_TRADE = 8
    MARKET_CLOSED = 9
    HALTED = 10
    DEAD_MAN = 11
    RISK = 12


class RejectCode(IntEnum):
    """Refusals of the order book, in order of precedence; docs/errors.md explains each. A number is never reused."""

    CLIENT_ORDER_ID_REUSED = 1001
    MARKET_NOT_OPEN = 1002
    NOT_FOUND = 1003
    ORDER_CLOSED = 1004
    VALIDATION_FAILED = 1005
    PRICE_OFF_TICK = 1006
    QUANTITY_OFF_LOT = 1007
    PRICE_OUTSIDE_CORRIDOR = 1008
    PRICE_OUTSIDE_BAND = 1009
    RISK_LIMIT = 1010
    INSUFFICIENT_FUNDS = 1011
    INSUFFICIENT_ENERGY = 1012
    CONFLICT = 1013
    NOT_IN_AUCTION = 1014  # follows RISK_LIMIT
    BEING_CLEARED = 1015  # follows ORDER_CLOSED


# --- commands: what someone wants -----------------------------------------------------------------------------------


class PlaceOrder(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """price_micro is the limit; for a market or stop order the worst price it may take (0: the corridor's end)."""

    participant_id: ParticipantId
    side: Side
    price_micro: PriceMicro
    quantity_wh: EnergyWh
    zone: str
    client_order_id: str = ""
    kind: OrderKind = OrderKind.LIMIT
    time_in_force: TimeInForce = TimeInForce.GTC
    expires_us: TimeUs = 0
    post_only: bool = False
    self_trade: SelfTrade = SelfTrade.CANCEL_NEWEST
    stop_price_micro: PriceMicro = 0


class AmendOrder(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """quantity_wh: the new total, with what has been filled; 0 keeps what is. Only waiting stops have a stop price."""

    participant_id: ParticipantId
    order_id: OrderId
    price_micro: PriceMicro = 0
    quantity_wh: EnergyWh = 0
    stop_price_micro: PriceMicro = 0


class CancelOrder(Struct, frozen=True, array_like=True, tag=3, gc=False):
    participant_id: ParticipantId
    order_id: OrderId


class CancelAll(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """participant_id 0: everybody's orders."""

    participant_id: ParticipantId
    reason: EndReason = EndReason.CANCELLED_BY_OWNER


class CancelAllAt(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Dead-man switch: cancel everything of the participant at this instant; 0 switches it off."""

    participant_id: ParticipantId
    at_us: TimeUs


class Fund(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Money or energy that the ledger has moved into this market under this number; numbers run 1, 2, 3, ..."""

    number: int
    participant_id: ParticipantId
    asset: str
    amount: int


class Defund(Struct, frozen=True, array_like=True, tag=7, gc=False):
    """Give everything free of the participant back to the ledger; idle_only: unless an order of his is open."""

    participant_id: ParticipantId
    idle_only: bool = False


class SetPhase(Struct, frozen=True, array_like=True, tag=8, gc=False):
    phase: Phase


class SetSpec(Struct, frozen=True, array_like=True, tag=9):
    """New rules for the market. Orders that rest keep their place and their reservation."""

    spec: MarketSpec


class SetFees(Struct, frozen=True, array_like=True, tag=10, gc=False):
    """A participant's own fee rates, from the next order on; both 0 with `remove` for the market's."""

    participant_id: ParticipantId
    maker_fee_bps: int
    taker_fee_bps: int
    remove: bool = False


class SetRisk(Struct, frozen=True, array_like=True, tag=12):
    """A participant's own limits, None for the market's; blocked: he may place nothing, and what he has open ends."""

    participant_id: ParticipantId
    limits: RiskLimits | None
    is_blocked: bool = False


class Tick(Struct, frozen=True, array_like=True, tag=11, gc=False):
    """Nothing but time: what is due (expiry, epoch, dead-man) happens, as it would before any other command."""


class FireStop(Struct, frozen=True, array_like=True, tag=13, gc=False):
    """The stop order that was triggered first enters the book. The market itself says so, whenever there is one."""


class ClearEpoch(Struct, frozen=True, array_like=True, tag=14, gc=False):
    """Make the next trades of the auction of this epoch, which has closed: so many at once that others need not wait.

    What trades follows from the orders that rested when the epoch closed; the command brings nothing but the wish.
    """

    start_us: TimeUs


Command: TypeAlias = (
    PlaceOrder
    | AmendOrder
    | CancelOrder
    | CancelAll
    | CancelAllAt
    | Fund
    | Defund
    | SetPhase
    | SetSpec
    | SetFees
    | SetRisk
    | Tick
    | FireStop
    | ClearEpoch
)


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """A command with its place and its instant: what a journal keeps."""

    sequence: int
    time_us: TimeUs
    command: Command


# --- events: what happened ------------------------------------------------------------------------------------------


class OrderAccepted(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The order exists; what became of it at once follows."""

    order_id: OrderId


class OrderRepeated(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The participant has used this client_order_id for this same order; nothing changed."""

    order_id: OrderId


class Refused(Struct, frozen=True, array_like=True, tag=3, gc=False):
    code: RejectCode
    detail: str


class Traded(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """One match. buyer pays buyer_value + buyer_fee, seller receives seller_value - seller_fee, the rest is the grid's.

    price_micro is the maker's own; buyer_price and seller_price are what each side pays and receives per kWh.
    A negative fee is a rebate.
    """

    number: int  # of the trade in this market: 1, 2, 3, ...
    maker_order_id: OrderId
    taker_order_id: OrderId
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

    @property
    def grid_micro(self) -> MoneyMicro:
        """Wheeling, loss and rounding remainder: what the buyer's value exceeds the seller's by."""
        return self.buyer_value_micro - self.seller_value_micro


class OrderAmended(Struct, frozen=True, array_like=True, tag=5, gc=False):
    order_id: OrderId
    price_micro: PriceMicro
    quantity_wh: EnergyWh


class OrderReduced(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Self-trade prevention took this much off the order without a trade."""

    order_id: OrderId
    by_wh: EnergyWh


class OrderEnded(Struct, frozen=True, array_like=True, tag=7, gc=False):
    """The order will never trade again; remaining_wh was not traded, and its reservation is free."""

    order_id: OrderId
    reason: EndReason
    remaining_wh: EnergyWh


class Funded(Struct, frozen=True, array_like=True, tag=8, gc=False):
    number: int
    participant_id: ParticipantId
    asset: str
    amount: int


class Defunded(Struct, frozen=True, array_like=True, tag=9, gc=False):
    """Free funds left the market; the ledger credits them under this number: 1, 2, 3, ..."""

    number: int
    participant_id: ParticipantId
    asset: str
    amount: int


class PhaseChanged(Struct, frozen=True, array_like=True, tag=10, gc=False):
    phase: Phase


class SpecChanged(Struct, frozen=True, array_like=True, tag=11):
    spec: MarketSpec


class EpochOpened(Struct, frozen=True, array_like=True, tag=12, gc=False):
    start_us: TimeUs


class DeadManSet(Struct, frozen=True, array_like=True, tag=13, gc=False):
    participant_id: ParticipantId
    at_us: TimeUs


class FeesSet(Struct, frozen=True, array_like=True, tag=14, gc=False):
    participant_id: ParticipantId
    maker_fee_bps: int
    taker_fee_bps: int


class RiskSet(Struct, frozen=True, array_like=True, tag=15):
    participant_id: ParticipantId
    limits: RiskLimits | None
    is_blocked: bool


class StopMoved(Struct, frozen=True, array_like=True, tag=18, gc=False):
    """An amend gave the waiting order another stop price."""

    order_id: OrderId
    stop_price_micro: PriceMicro


class StopTriggered(Struct, frozen=True, array_like=True, tag=19, gc=False):
    """A trade has reached the order's stop price; a FireStop of its own lets it into the book."""

    order_id: OrderId


class VolatilityHalted(Struct, frozen=True, array_like=True, tag=16, gc=False):
    """The next trade would have been at this price, outside the band; the market halts until then."""

    price_micro: PriceMicro
    until_us: TimeUs


class HaltEnded(Struct, frozen=True, array_like=True, tag=17, gc=False):
    """A volatility halt is over; the reference price begins anew here."""

    reference_price_micro: PriceMicro


class EpochClosed(Struct, frozen=True, array_like=True, tag=20, gc=False):
    """So many orders take part in the epoch's auction; until it is cleared they stay as they are."""

    start_us: TimeUs
    orders: int


class AuctionTraded(Traded, frozen=True, array_like=True, tag=21, gc=False):
    """A trade of the auction of this epoch. All pay its price: the seller's own is price_micro; maker is who was first.

    Continuous trades belong to the epoch of their instant.
    """

    epoch_start_us: TimeUs


class ZonePrice(Struct, frozen=True, array_like=True, gc=False):
    """What a zone's buyers pay and its sellers receive per kWh; 0 where nothing trades. Energy as it traded.

    marginal_bid, marginal_ask: priority of the last order that was accepted; 0 for none.
    """

    zone: str
    buyer_price_micro: PriceMicro
    seller_price_micro: PriceMicro
    bought_wh: EnergyWh
    sold_wh: EnergyWh
    marginal_bid: int
    marginal_ask: int


class EpochCleared(Struct, frozen=True, array_like=True, tag=22, gc=False):
    """The auction's result; volume 0 and no zones: nothing met. The certificate is of the orders with orders_hash.

    surplus_wh: bids less asks left over that are willing at the price. welfare: limits of bids less limits of asks less
    the grid's charges; welfare_max_micro: if nobody had been left out as his own partner (docs/decisions/0034).
    """

    start_us: TimeUs
    zones: tuple[ZonePrice, ...] = ()
    volume_wh: EnergyWh = 0
    surplus_wh: int = 0
    value_micro: MoneyMicro = 0  # at the sellers' prices
    orders: int = 0
    trades: int = 0
    welfare_micro: MoneyMicro = 0
    welfare_max_micro: MoneyMicro = 0
    orders_hash: str = ""


Event: TypeAlias = (
    OrderAccepted
    | OrderRepeated
    | Refused
    | Traded
    | OrderAmended
    | OrderReduced
    | OrderEnded
    | Funded
    | Defunded
    | PhaseChanged
    | SpecChanged
    | EpochOpened
    | DeadManSet
    | FeesSet
    | RiskSet
    | VolatilityHalted
    | HaltEnded
    | StopMoved
    | StopTriggered
    | EpochClosed
    | AuctionTraded
    | EpochCleared
)

TRADES: Final = (Traded, AuctionTraded)  # for looking at an event's exact type
