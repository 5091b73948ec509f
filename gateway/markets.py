"""Markets and market data, for everyone: what each market is, its book, trades, candles, statistics, epochs."""

import asyncio
from typing import Annotated, Any, Final, Literal

from litestar import Controller, get
from litestar.params import FromPath, FromQuery, QueryParameter
from msgspec import Struct

from engine.market import UNLIMITED_WH, MarketSpec
from engine.records import CandleRecord, EpochRecord
from engine.units import FOREVER_US, SECOND_US
from engine.views import Answer, BookView, Failed, GetBook, GetMarket, MarketView, Refusal
from gateway.accounts import From, To
from gateway.decimals import format_energy, format_money, format_price, parse_energy
from gateway.errors import invalid, not_found, refused
from gateway.instants import format_instant, parse_instant
from gateway.liquidity import LiquidityShown, show_liquidity
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.risk_limits import Limits, show_limits
from gateway.wire import (
    CHECKSUM_LEVELS,
    MECHANISM_NAMES,
    PHASE_NAMES,
    Energy,
    Instant,
    Money,
    Price,
    PublicTrade,
    ShownLevel,
    checksum,
    show_level,
    show_trade,
)

DAY_US: Final = 86_400 * SECOND_US
_INTERVALS: Final = {"1m": 60, "15m": 900, "1h": 3_600, "1d": 86_400}
_WHOLE_BOOK: Final = 20_000  # levels
Depth = Annotated[int, QueryParameter(ge=1, le=1_000, description="levels of each side")]


class Epoch(Struct, frozen=True):
    start: Instant
    end: Instant


class PathCost(Struct, frozen=True, rename={"from_": "from"}):
    """What a kWh costs on its way: wheeling per kWh, loss in basis points of the seller's price; null: no limit."""

    from_: str
    to: str
    wheeling: Price
    loss_bps: int
    energy_per_epoch: Energy | None


class Market(Struct, frozen=True):
    """`phase`, `epoch` and `sequence` are null while the market does not answer. A volatility halt has its end."""

    symbol: str
    mechanism: str
    zones: list[str]
    tick: Price
    lot: Energy
    min_quantity: Energy
    price_min: Price
    price_max: Price
    band_bps: int
    maker_fee_bps: int
    taker_fee_bps: int
    auction_fee_bps: int
    epoch_seconds: int
    max_order_life_seconds: int
    halt_seconds: int
    limits: Limits
    costs: list[PathCost]
    phase: str | None
    halted_until: Instant | None
    reference_price: Price | None
    last_price: Price | None
    epoch: Epoch | None
    sequence: int | None


class Book(Struct, frozen=True):
    """Levels are [price, quantity, orders], best first; checksum: CRC32 of the ten best, see docs."""

    symbol: str
    sequence: int
    bids: list[ShownLevel]
    asks: list[ShownLevel]
    checksum: int


class Stats(Struct, frozen=True):
    """The last 24 hours; prices are null when nothing traded."""

    symbol: str
    open: Price | None
    high: Price | None
    low: Price | None
    last: Price | None
    vwap: Price | None
    volume: Energy
    value: Money
    trades: int


class Ticker(Struct, frozen=True):
    symbol: str
    sequence: int
    best_bid: ShownLevel | None
    best_ask: ShownLevel | None
    last: Price | None
    volume_24h: Energy
    change_24h: Price | None


class Candle(Struct, frozen=True):
    start: Instant
    open: Price
    high: Price
    low: Price
    close: Price
    volume: Energy
    value: Money
    vwap: Price | None
    trades: int


class EpochShown(Struct, frozen=True):
    """A continuous market has no clearing price and no certificate; its VWAP stands beside."""

    start: Instant
    end: Instant
    phase: Literal["open", "closed"]
    clearing_price: Price | None
    vwap: Price | None
    volume: Energy
    value: Money
    trades: int
    certificate: dict[str, Any] | None


class MarketController(Controller):
    path = "/markets"
    tags = ["market data"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def search(self, request: GatewayRequest) -> Page[Market]:
        """All markets."""
        markets = request.gateway.markets
        specs = sorted(markets.markets().values(), key=lambda spec: spec.symbol)
        answers = await asyncio.gather(*(markets.ask(spec.market_id, GetMarket()) for spec in specs))
        return Page([show_market(spec, answer) for spec, answer in zip(specs, answers, strict=True)])

    @get("/{symbol:str}")
    async def find(self, request: GatewayRequest, symbol: FromPath[str]) -> Market:
        """One market."""
        spec = request.gateway.trading.spec(symbol)
        return show_market(spec, await request.gateway.markets.ask(spec.market_id, GetMarket()))

    @get("/{symbol:str}/book")
    async def book(
        self,
        request: GatewayRequest,
        symbol: FromPath[str],
        depth: Depth = 20,
        zone: FromQuery[str | None] = None,
    ) -> Book:
        """The book by level; with a zone, as seen from there: asks landed, bids as the ask that they could pay."""
        spec = request.gateway.trading.spec(symbol)
        if zone is not None and zone not in spec.zones:
            raise invalid("zone", f"{spec.symbol} has no such zone")
        view = await _book(request, spec, max(depth, CHECKSUM_LEVELS), zone or "")
        bids, asks = [show_level(level) for level in view.bids], [show_level(level) for level in view.asks]
        return Book(spec.symbol, view.sequence, bids[:depth], asks[:depth], checksum(bids, asks))

    @get("/{symbol:str}/trades")
    async def trades(
        self, request: GatewayRequest, symbol: FromPath[str], limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> Page[PublicTrade]:
        """Trades, newest first."""
        spec = await _caught_up(request, symbol)
        before = parse_cursor(cursor, 1)
        rows = await request.gateway.history.trades(spec.market_id, before[0] if before else FOREVER_US, limit)
        items = [show_trade(spec, row) for row in rows]
        return Page(items, cursor_of(rows[-1].number) if len(rows) == limit else None)

    @get("/{symbol:str}/ticker")
    async def ticker(self, request: GatewayRequest, symbol: FromPath[str]) -> Ticker:
        """Best prices and the last day in one line."""
        gateway = request.gateway
        spec = await _caught_up(request, symbol)
        view = await _book(request, spec, 1, "")
        stats = await gateway.history.stats(spec.market_id, gateway.clock() - DAY_US)
        traded = stats.trades > 0
        return Ticker(
            symbol=spec.symbol,
            sequence=view.sequence,
            best_bid=show_level(view.bids[0]) if view.bids else None,
            best_ask=show_level(view.asks[0]) if view.asks else None,
            last=format_price(stats.last_micro) if traded else None,
            volume_24h=format_energy(stats.volume_wh),
            change_24h=format_price(stats.last_micro - stats.open_micro) if traded else None,
        )

    @get("/{symbol:str}/candles")
    async def candles(
        self,
        request: GatewayRequest,
        symbol: FromPath[str],
        interval: FromQuery[Literal["1m", "15m", "1h", "1d"]] = "15m",
        from_: From = None,
        to: To = None,
        limit: Limit = LIMIT_DEFAULT,
    ) -> Page[Candle]:
        """Candles, oldest first; intervals without a trade have none."""
        gateway = request.gateway
        spec = await _caught_up(request, symbol)
        seconds = _INTERVALS[interval]
        to_us = parse_instant(to, "to") if to is not None else gateway.clock() + 1
        from_us = parse_instant(from_, "from") if from_ is not None else to_us - limit * seconds * SECOND_US
        rows = await gateway.history.candles(spec.market_id, seconds, from_us, to_us, limit)
        return Page([_show_candle(row) for row in rows])

    @get("/{symbol:str}/stats")
    async def stats(self, request: GatewayRequest, symbol: FromPath[str]) -> Stats:
        """The last 24 hours."""
        gateway = request.gateway
        spec = await _caught_up(request, symbol)
        row = await gateway.history.stats(spec.market_id, gateway.clock() - DAY_US)
        traded = row.trades > 0
        return Stats(
            symbol=spec.symbol,
            open=format_price(row.open_micro) if traded else None,
            high=format_price(row.high_micro) if traded else None,
            low=format_price(row.low_micro) if traded else None,
            last=format_price(row.last_micro) if traded else None,
            vwap=_vwap(row.value_micro, row.volume_wh),
            volume=format_energy(row.volume_wh),
            value=format_money(row.value_micro),
            trades=row.trades,
        )

    @get("/{symbol:str}/liquidity")
    async def liquidity(
        self, request: GatewayRequest, symbol: FromPath[str], quantity: FromQuery[str | None] = None
    ) -> LiquidityShown:
        """Spread, depth within 1 % and 5 % of the middle, and what taking `quantity` would cost."""
        spec = request.gateway.trading.spec(symbol)
        wanted_wh = parse_energy(quantity, "quantity") if quantity is not None else 0
        return show_liquidity(spec, await _book(request, spec, _WHOLE_BOOK, ""), wanted_wh)

    @get("/{symbol:str}/epochs")
    async def epochs(
        self, request: GatewayRequest, symbol: FromPath[str], limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> Page[EpochShown]:
        """Epochs in which something traded, newest first."""
        gateway = request.gateway
        spec = await _caught_up(request, symbol)
        before = parse_cursor(cursor, 1)
        rows = await gateway.history.epochs(spec.market_id, before[0] if before else FOREVER_US, limit)
        items = [_show_epoch(spec, row, gateway.clock()) for row in rows]
        return Page(items, cursor_of(rows[-1].start_us) if len(rows) == limit else None)

    @get("/{symbol:str}/epochs/{start:str}")
    async def epoch(self, request: GatewayRequest, symbol: FromPath[str], start: FromPath[str]) -> EpochShown:
        """One epoch, by its start; one that has not begun is not found."""
        gateway = request.gateway
        spec = await _caught_up(request, symbol)
        start_us, now_us = parse_instant(start, "start"), gateway.clock()
        if start_us % spec.epoch_us or start_us > now_us:
            raise not_found("epoch")
        row = await gateway.history.epoch(spec.market_id, start_us) or EpochRecord(start_us, 0, 0, 0)
        return _show_epoch(spec, row, now_us)


def show_market(spec: MarketSpec, answer: Answer | None) -> Market:
    """A market as its actor sees it; without an answer, only what is known of it here."""
    view = answer if isinstance(answer, MarketView) else None
    spec = view.spec if view is not None else spec
    return Market(
        symbol=spec.symbol,
        mechanism=MECHANISM_NAMES[spec.mechanism],
        zones=list(spec.zones),
        tick=format_price(spec.tick_micro),
        lot=format_energy(spec.lot_wh),
        min_quantity=format_energy(spec.quantity_wh_min),
        price_min=format_price(spec.price_micro_min),
        price_max=format_price(spec.price_micro_max),
        band_bps=spec.band_bps,
        maker_fee_bps=spec.maker_fee_bps,
        taker_fee_bps=spec.taker_fee_bps,
        auction_fee_bps=spec.auction_fee_bps,
        epoch_seconds=spec.epoch_seconds,
        max_order_life_seconds=spec.order_life_seconds_max,
        halt_seconds=spec.halt_seconds,
        limits=show_limits(spec.limits, spec.messages_per_second),
        costs=[
            PathCost(
                path.zone_from,
                path.zone_to,
                format_price(path.wheeling_micro),
                path.loss_bps,
                None if path.capacity_wh == UNLIMITED_WH else format_energy(path.capacity_wh),
            )
            for path in spec.paths
        ],
        phase=PHASE_NAMES[view.phase] if view is not None else None,
        halted_until=format_instant(view.halted_until_us) if view is not None and view.halted_until_us else None,
        reference_price=format_price(view.reference_price_micro) if view is not None else None,
        last_price=format_price(view.last_price_micro) if view is not None and view.last_price_micro else None,
        epoch=Epoch(format_instant(view.epoch_start_us), format_instant(view.epoch_start_us + spec.epoch_us))
        if view is not None
        else None,
        sequence=view.sequence if view is not None else None,
    )


async def _caught_up(request: GatewayRequest, symbol: str) -> MarketSpec:
    """The market, once history shows what it has answered."""
    spec = request.gateway.trading.spec(symbol)
    request.mark_lag(await request.gateway.barrier.wait([spec.market_id]))
    return spec


async def _book(request: GatewayRequest, spec: MarketSpec, depth: int, zone: str) -> BookView:
    answer = await request.gateway.markets.ask(spec.market_id, GetBook(depth, zone))
    if isinstance(answer, (Failed, Refusal)):
        raise refused(answer)
    assert isinstance(answer, BookView), f"a book query got {type(answer).__name__}"
    return answer


def _show_candle(row: CandleRecord) -> Candle:
    return Candle(
        start=format_instant(row.start_us),
        open=format_price(row.open_micro),
        high=format_price(row.high_micro),
        low=format_price(row.low_micro),
        close=format_price(row.close_micro),
        volume=format_energy(row.volume_wh),
        value=format_money(row.value_micro),
        vwap=_vwap(row.value_micro, row.volume_wh),
        trades=row.trades,
    )


def _show_epoch(spec: MarketSpec, row: EpochRecord, now_us: int) -> EpochShown:
    end_us = row.start_us + spec.epoch_us
    return EpochShown(
        start=format_instant(row.start_us),
        end=format_instant(end_us),
        phase="closed" if end_us <= now_us else "open",
        clearing_price=None,
        vwap=_vwap(row.value_micro, row.volume_wh),
        volume=format_energy(row.volume_wh),
        value=format_money(row.value_micro),
        trades=row.trades,
        certificate=None,
    )


def _vwap(value: int, volume_wh: int) -> str | None:
    """Rounded down to a micro: it informs, nothing is computed from it."""
    return format_price(value * 1_000 // volume_wh) if volume_wh else None
