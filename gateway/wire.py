"""The JSON shapes of orders, fills and books: engine views in, decimals and RFC 3339 out.

Ids are strings: an order is `<market>-<order>`, a trade `<market>-<number>`; a participant is a user's id.
"""

import uuid
import zlib
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from engine.market import MarketSpec, Mechanism, Phase
from engine.messages import EndReason, OrderKind, SelfTrade, Side, TimeInForce
from engine.metering.records import PostedWindow
from engine.records import AccountBalance
from engine.units import FOREVER_US
from engine.views import FillView, Level, OrderStatus, OrderView, TradeView
from gateway.decimals import format_energy, format_money, format_price
from gateway.errors import invalid
from gateway.instants import format_instant

SIDE_NAMES: Final = {Side.BUY: "buy", Side.SELL: "sell"}
SIDES: Final = {name: side for side, name in SIDE_NAMES.items()}
KIND_NAMES: Final = {one: one.name.lower() for one in OrderKind}
KINDS: Final = {name: one for one, name in KIND_NAMES.items()}
_PRICELESS: Final = frozenset({OrderKind.MARKET, OrderKind.STOP})
TIME_IN_FORCE_NAMES: Final = {one: one.name.lower() for one in TimeInForce}
TIMES_IN_FORCE: Final = {name: one for one, name in TIME_IN_FORCE_NAMES.items()}
SELF_TRADES: Final = {one.name.lower(): one for one in SelfTrade}
STATUS_NAMES: Final = {one: one.name.lower() for one in OrderStatus}
END_REASON_NAMES: Final = {one.value: one.name.lower() for one in EndReason}
PHASE_NAMES: Final = {one: one.name.lower() for one in Phase}
PHASES: Final = {name: one for one, name in PHASE_NAMES.items()}
MECHANISM_NAMES: Final = {one: one.name.lower() for one in Mechanism}
LIQUIDITY_NAMES: Final = ("maker", "taker")
CHECKSUM_LEVELS: Final = 10

Price = Annotated[str, Meta(description="currency per kWh", examples=["3.500"])]
Energy = Annotated[str, Meta(description="kWh", examples=["12.250"])]
Money = Annotated[str, Meta(description="currency", examples=["42.875"])]
Instant = Annotated[str, Meta(description="RFC 3339, UTC", examples=["2026-11-21T10:15:00Z"])]


class Fill(Struct, frozen=True):
    """This side's part in a trade: what it paid or received per kWh, and the fee on top or off."""

    trade_id: str
    price: Price
    quantity: Energy
    value: Money
    fee: Money
    liquidity: str
    at: Instant


class OwnFill(Struct, frozen=True):
    """A fill in the list of all of one's fills, with the order that it belongs to."""

    trade_id: str
    order_id: str
    market: str
    side: str
    price: Price
    quantity: Energy
    value: Money
    fee: Money
    liquidity: str
    at: Instant


class Order(Struct, frozen=True):
    """`sequence`: the market's journal is durable up to here. `triggered`: a trade has reached the stop price."""

    order_id: str
    client_order_id: str | None
    market: str
    side: str
    type: str
    price: Price | None
    quantity: Energy
    filled_quantity: Energy
    remaining_quantity: Energy
    average_price: Price | None
    status: str
    end_reason: str | None
    time_in_force: str
    expires_at: Instant | None
    post_only: bool
    zone: str
    created_at: Instant
    updated_at: Instant
    sequence: int
    repeated: bool
    fills: list[Fill]
    stop_price: Price | None = None
    triggered: bool | None = None


def order_id(market_id: int, number: int) -> str:
    return f"{market_id}-{number}"


def parse_order_id(text: str, field: str = "order_id") -> tuple[int, int]:
    """The market and the engine's id. Raises VALIDATION_FAILED, also for a second way to write the same id."""
    market, _, number = text.partition("-")
    if market.isdigit() and number.isdigit() and text.isascii() and len(market) <= 9 and len(number) <= 18:
        parts = int(market), int(number)
        if order_id(*parts) == text:
            return parts
    raise invalid(field, "must be an order id such as 1-42")


def show_order(spec: MarketSpec, view: OrderView, fills: Sequence[FillView], *, repeated: bool = False) -> Order:
    return Order(
        order_id=f"{spec.market_id}-{view.order_id}",
        client_order_id=view.client_order_id or None,
        market=spec.symbol,
        side=SIDE_NAMES[view.side],
        type=KIND_NAMES[view.kind],
        price=None if view.kind in _PRICELESS else format_price(view.price_micro),
        quantity=format_energy(view.quantity_wh),
        filled_quantity=format_energy(view.filled_wh),
        remaining_quantity=format_energy(view.remaining_wh),
        # rounded down to a micro: it informs, nothing is computed from it
        average_price=format_price(view.value_micro * 1_000 // view.filled_wh) if view.filled_wh else None,
        status=STATUS_NAMES[view.status],
        end_reason=END_REASON_NAMES[view.end_reason] if view.end_reason else None,
        time_in_force=TIME_IN_FORCE_NAMES[view.time_in_force],
        expires_at=format_instant(view.expires_us) if 0 < view.expires_us < FOREVER_US else None,
        post_only=view.post_only,
        zone=view.zone,
        created_at=format_instant(view.created_us),
        updated_at=format_instant(view.updated_us),
        sequence=view.sequence,
        repeated=repeated,
        fills=[show_fill(spec, fill) for fill in fills],
        stop_price=format_price(view.stop_price_micro) if view.stop_price_micro else None,
        triggered=not view.is_waiting if view.stop_price_micro else None,
    )


def show_fill(spec: MarketSpec, fill: FillView) -> Fill:
    return Fill(
        trade_id=f"{spec.market_id}-{fill.trade_number}",
        price=format_price(fill.price_micro),
        quantity=format_energy(fill.quantity_wh),
        value=format_money(fill.value_micro),
        fee=format_money(fill.fee_micro),
        liquidity=LIQUIDITY_NAMES[fill.liquidity],
        at=format_instant(fill.at_us),
    )


def show_own_fill(spec: MarketSpec, fill: FillView) -> OwnFill:
    return OwnFill(
        trade_id=f"{spec.market_id}-{fill.trade_number}",
        order_id=f"{spec.market_id}-{fill.order_id}",
        market=spec.symbol,
        side=SIDE_NAMES[fill.side],
        price=format_price(fill.price_micro),
        quantity=format_energy(fill.quantity_wh),
        value=format_money(fill.value_micro),
        fee=format_money(fill.fee_micro),
        liquidity=LIQUIDITY_NAMES[fill.liquidity],
        at=format_instant(fill.at_us),
    )


class PublicTrade(Struct, frozen=True):
    """A trade as everyone sees it: at the maker's own price."""

    trade_id: str
    sequence: int
    price: Price
    quantity: Energy
    taker_side: str
    buyer_zone: str
    seller_zone: str
    at: Instant


def show_trade(spec: MarketSpec, trade: TradeView) -> PublicTrade:
    return PublicTrade(
        trade_id=f"{spec.market_id}-{trade.number}",
        sequence=trade.sequence,
        price=format_price(trade.price_micro),
        quantity=format_energy(trade.quantity_wh),
        taker_side=SIDE_NAMES[trade.taker_side],
        buyer_zone=trade.buyer_zone,
        seller_zone=trade.seller_zone,
        at=format_instant(trade.at_us),
    )


ShownLevel = tuple[Price, Energy, int]


def show_level(level: Level) -> ShownLevel:
    return format_price(level.price_micro), format_energy(level.quantity_wh), level.orders


def checksum(bids: Sequence[ShownLevel], asks: Sequence[ShownLevel]) -> int:
    """CRC32 over the ten best levels, as shown, best first: bid, ask, bid, ask, ... as `price:quantity`, joined by `|`.

    A side that is shorter is left out from where it ends. An empty book has the checksum 0.
    """
    parts = [
        f"{side[place][0]}:{side[place][1]}"
        for place in range(CHECKSUM_LEVELS)
        for side in (bids, asks)
        if place < len(side)
    ]
    return zlib.crc32("|".join(parts).encode())


def show_amount(asset: str, amount: int, currency: str) -> str:
    """An amount of a ledger asset: money for the currency, kWh for everything else."""
    return format_money(amount) if asset == currency else format_energy(amount)


class Balance(Struct, frozen=True):
    """available + free_in_markets + reserved = total."""

    asset: str
    available: str
    free_in_markets: str
    reserved: str
    total: str


def show_balance(balance: AccountBalance, currency: str) -> Balance:
    asset = balance.asset
    return Balance(
        asset=asset,
        available=show_amount(asset, balance.available, currency),
        free_in_markets=show_amount(asset, balance.in_markets - balance.reserved, currency),
        reserved=show_amount(asset, balance.reserved, currency),
        total=show_amount(asset, balance.available + balance.in_markets, currency),
    )


def show_change(energy_wh: int) -> str:
    """kWh, below zero where something was taken back."""
    return format_energy(energy_wh) if energy_wh >= 0 else f"-{format_energy(-energy_wh)}"


def show_posted(window: PostedWindow) -> dict[str, object]:
    """A window that has just closed, or an adjustment to one, as the channel `energy` tells it to its owner."""
    return {
        "meter_id": str(uuid.UUID(bytes=window.meter_id)),
        "start": format_instant(window.start_us),
        "zone": window.zone,
        "imported": show_change(window.import_wh),
        "exported": show_change(window.export_wh),
        "credited": show_change(window.credited_wh),
        "retired": format_energy(window.retired_wh),
        "adjustment": window.is_adjustment,
    }
