"""The market maker programme: obligations, which an admin sets, and what each maker did and got in each epoch."""

from typing import Annotated, Final

from litestar import Controller, delete, get, put
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Meta, Struct

from engine.records import MakerRecord, RewardRecord
from gateway.decimals import format_energy, format_money, format_share, parse_energy
from gateway.errors import not_found
from gateway.instants import INSTANT_US_MAX, format_instant, parse_instant
from gateway.permissions import ADMIN
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.users import user_number
from gateway.wire import Energy, Instant, Money

_AFTER_ALL: Final = (INSTANT_US_MAX, 2**31 - 1, 2**62)
_Bps = Annotated[int, Meta(ge=1, le=10_000)]


class Obligations(Struct, frozen=True, forbid_unknown_fields=True):
    """A bid and an ask of at least `min_quantity` each, at most `max_spread_bps` of the middle apart, for
    `min_presence_bps` of an epoch; then `rebate_bps` of what traded with them, and never more than the trades' fees."""

    max_spread_bps: Annotated[int, Meta(ge=1, le=20_000)]
    min_quantity: Energy
    min_presence_bps: _Bps
    rebate_bps: Annotated[int, Meta(ge=0, le=9_999)]


class Maker(Struct, frozen=True, kw_only=True):
    user_id: str
    market: str
    max_spread_bps: int
    min_quantity: Energy
    min_presence_bps: int
    rebate_bps: int
    since: Instant


class MakerEpoch(Struct, frozen=True, kw_only=True):
    """`presence`: the part of the epoch in which he quoted as obliged; `value`: traded with his resting orders."""

    user_id: str
    market: str
    epoch: Instant
    presence: Annotated[str, Meta(examples=["0.9312"])]
    fulfilled: bool
    value: Money
    rebate: Money


class MakerController(Controller):
    path = "/markets/{symbol:str}/makers"
    tags = ["administration"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def search(self, request: GatewayRequest, symbol: FromPath[str]) -> Page[Maker]:
        """Who has promised what."""
        spec = request.gateway.trading.spec(symbol)
        return Page([_show(one, symbol) for one in await request.gateway.makers.of_market(spec.market_id)])

    @put("/{user_id:str}")
    async def oblige(
        self, request: GatewayRequest, symbol: FromPath[str], user_id: FromPath[str], data: JSONBody[Obligations]
    ) -> Maker:
        """Take somebody into the programme, or change his obligations; his first whole epoch is the first rewarded."""
        gateway, spec = request.gateway, request.gateway.trading.spec(symbol)
        maker = MakerRecord(
            spec.market_id,
            user_number(user_id),
            data.max_spread_bps,
            parse_energy(data.min_quantity, "min_quantity"),
            data.min_presence_bps,
            data.rebate_bps,
            gateway.clock(),
        )
        kept = await gateway.makers.put(maker, request.origin)
        if kept is None:
            raise not_found("user")
        return _show(kept, symbol)

    @delete("/{user_id:str}", status_code=204)
    async def release(self, request: GatewayRequest, symbol: FromPath[str], user_id: FromPath[str]) -> None:
        """Out of the programme, at once."""
        spec = request.gateway.trading.spec(symbol)
        if not await request.gateway.makers.remove(spec.market_id, user_number(user_id), request.origin):
            raise not_found("market maker")


class MakerReportController(Controller):
    path = "/analytics/market-makers"
    tags = ["analytics"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def report(
        self,
        request: GatewayRequest,
        market: FromQuery[str | None] = None,
        from_: Annotated[str | None, QueryParameter(name="from")] = None,
        to: FromQuery[str | None] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[MakerEpoch]:
        """One's own epochs as a market maker, newest first; an admin sees everybody's."""
        gateway, caller = request.gateway, request.caller
        before = parse_cursor(cursor, 3)
        rows = await gateway.makers.rewards(
            None if caller.role == ADMIN else caller.user_id,
            gateway.trading.spec(market).market_id if market is not None else None,
            parse_instant(from_, "from") if from_ is not None else 0,
            parse_instant(to, "to") if to is not None else INSTANT_US_MAX,
            (before[0], before[1], before[2]) if before is not None else _AFTER_ALL,
            limit,
        )
        specs = gateway.trading.specs()
        items = [_show_epoch(row, specs[row.market_id].symbol) for row in rows if row.market_id in specs]
        last = rows[-1] if len(rows) == limit else None
        return Page(items, cursor_of(last.epoch_start_us, last.market_id, last.user_id) if last else None)


def _show(maker: MakerRecord, symbol: str) -> Maker:
    return Maker(
        user_id=str(maker.user_id),
        market=symbol,
        max_spread_bps=maker.spread_bps_max,
        min_quantity=format_energy(maker.size_wh_min),
        min_presence_bps=maker.presence_bps_min,
        rebate_bps=maker.rebate_bps,
        since=format_instant(maker.since_us),
    )


def _show_epoch(row: RewardRecord, symbol: str) -> MakerEpoch:
    return MakerEpoch(
        user_id=str(row.user_id),
        market=symbol,
        epoch=format_instant(row.epoch_start_us),
        presence=format_share(row.presence_bps),
        fulfilled=row.presence_bps >= row.presence_bps_min,
        value=format_money(row.value_micro),
        rebate=format_money(row.rebate_micro),
    )
