"""The epochs of a market, for everyone: how far each is, what its auction came to, and the certificate of that."""

from typing import Any, Final, Literal

from litestar import Controller, MediaType, Response, get
from litestar.params import FromPath
from msgspec import Struct

from engine.market import MarketSpec
from engine.messages import ZonePrice
from engine.records import EpochRecord
from engine.units import BPS, FOREVER_US, SECOND_US
from engine.views import EpochPhase
from gateway.decimals import format_energy, format_money, format_price
from gateway.errors import not_found
from gateway.instants import format_instant, parse_instant
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.wire import Energy, Instant, Money, Price

AHEAD_US: Final = 7 * 86_400 * SECOND_US  # epochs that begin later are not known yet
EPOCH_PHASES: Final = {phase: phase.name.lower() for phase in EpochPhase}
EpochPhaseName = Literal["scheduled", "open", "clearing", "cleared", "settling", "settled"]


class ZonePriceShown(Struct, frozen=True):
    """Per kWh; null where nothing traded. `marginal_bid`, `marginal_ask`: priority of the last accepted order."""

    zone: str
    buyer_price: Price | None
    seller_price: Price | None
    bought: Energy
    sold: Energy
    marginal_bid: int | None
    marginal_ask: int | None


class CertificateShown(Struct, frozen=True):
    """What the auction came to, and where the orders are by which it can be checked.

    `surplus`: bids less asks that are willing at the price, negative when asks are more. `orders_hash`: SHA-256.
    """

    orders: int
    orders_hash: str
    volume: Energy
    surplus: str
    zones: list[ZonePriceShown]
    href: str


class EpochShown(Struct, frozen=True):
    """`clearing_price`: what all sellers of its auction received; null without one, or when zones differ.

    `welfare`: limits of buyers less those of sellers less the grid's charges, of an auction's trades, or of all trades
    where there are none; `welfare_share_bps`: of what the auction would have been worth had nobody been left out as his
    own partner, or of what one auction of all the epoch's orders would have been worth.
    """

    start: Instant
    end: Instant
    phase: EpochPhaseName
    clearing_price: Price | None
    vwap: Price | None
    volume: Energy
    value: Money
    trades: int
    welfare: Money | None
    welfare_share_bps: int | None
    certificate: CertificateShown | None


class EpochController(Controller):
    path = "/markets/{symbol:str}/epochs"
    tags = ["market data"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def epochs(
        self, request: GatewayRequest, symbol: FromPath[str], limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> Page[EpochShown]:
        """Epochs that have begun, newest first."""
        spec = await _caught_up(request, symbol)
        before = parse_cursor(cursor, 1)
        rows = await request.gateway.history.epochs(spec.market_id, before[0] if before else FOREVER_US, limit)
        items = [show_epoch(spec, row) for row in rows]
        return Page(items, cursor_of(rows[-1].start_us) if len(rows) == limit else None)

    @get("/{start:str}")
    async def epoch(self, request: GatewayRequest, symbol: FromPath[str], start: FromPath[str]) -> EpochShown:
        """One epoch, by its start; one that begins within a week is scheduled, a later one is not found."""
        gateway = request.gateway
        spec = await _caught_up(request, symbol)
        start_us, now_us = _start_us(spec, start), gateway.clock()
        if start_us > now_us + AHEAD_US:
            raise not_found("epoch")
        row = await gateway.history.epoch(spec.market_id, start_us)
        return show_epoch(spec, row or EpochRecord(start_us, 0, 0, 0, _unheard_of(spec, start_us, now_us)))

    @get("/{start:str}/certificate", media_type=MediaType.JSON)
    async def certificate(self, request: GatewayRequest, symbol: FromPath[str], start: FromPath[str]) -> Response[Any]:
        """The auction with all its orders, for `wattbook certificate verify`; participants are numbers of this file."""
        spec = await _caught_up(request, symbol)
        found = await request.gateway.history.certificate(spec.market_id, _start_us(spec, start))
        if found is None:
            raise not_found("certificate")
        return Response(found, media_type=MediaType.JSON)


def show_epoch(spec: MarketSpec, row: EpochRecord) -> EpochShown:
    return EpochShown(
        start=format_instant(row.start_us),
        end=format_instant(row.start_us + spec.epoch_us),
        phase=_name(row.phase),
        clearing_price=format_price(row.price_micro) if row.price_micro else None,
        vwap=format_price(row.value_micro * 1_000 // row.volume_wh) if row.volume_wh else None,
        volume=format_energy(row.volume_wh),
        value=format_money(row.value_micro),
        trades=row.trades,
        welfare=format_money(row.welfare_micro) if row.orders or row.welfare_max_micro else None,
        welfare_share_bps=row.welfare_micro * BPS // row.welfare_max_micro if row.welfare_max_micro else None,
        certificate=_show_certificate(spec, row) if row.orders else None,
    )


def _show_certificate(spec: MarketSpec, row: EpochRecord) -> CertificateShown:
    return CertificateShown(
        orders=row.orders,
        orders_hash=row.orders_hash,
        volume=format_energy(row.cleared_wh),
        surplus=format_energy(row.surplus_wh),
        zones=[_show_zone(zone) for zone in row.zones],
        href=f"/api/v1/markets/{spec.symbol}/epochs/{format_instant(row.start_us)}/certificate",
    )


def _show_zone(zone: ZonePrice) -> ZonePriceShown:
    return ZonePriceShown(
        zone=zone.zone,
        buyer_price=format_price(zone.buyer_price_micro) if zone.buyer_price_micro else None,
        seller_price=format_price(zone.seller_price_micro) if zone.seller_price_micro else None,
        bought=format_energy(zone.bought_wh),
        sold=format_energy(zone.sold_wh),
        marginal_bid=zone.marginal_bid or None,
        marginal_ask=zone.marginal_ask or None,
    )


def _name(phase: EpochPhase) -> EpochPhaseName:
    return EPOCH_PHASES[phase]  # type: ignore[return-value]  # a test holds the names against the Literal


def _unheard_of(spec: MarketSpec, start_us: int, now_us: int) -> EpochPhase:
    """Of an epoch that the journal does not name: it has yet to begin, or nothing happened in it."""
    if start_us > now_us:
        return EpochPhase.SCHEDULED
    return EpochPhase.OPEN if start_us + spec.epoch_us > now_us else EpochPhase.CLEARED


def _start_us(spec: MarketSpec, start: str) -> int:
    start_us = parse_instant(start, "start")
    if start_us % spec.epoch_us:
        raise not_found("epoch")
    return start_us


async def _caught_up(request: GatewayRequest, symbol: str) -> MarketSpec:
    """The market, once history shows what it has answered."""
    spec = request.gateway.trading.spec(symbol)
    request.mark_lag(await request.gateway.barrier.wait([spec.market_id]))
    return spec
