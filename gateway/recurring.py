"""Recurring orders: one limit order in each period, until an end or a count. Placed by the exchange, owned like others.

An order is good until the next period begins. A period in which the exchange was away for all of it is left out.
"""

from typing import Annotated, Final, Literal

from litestar import Controller, delete, get, post
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from engine.records import NewRecurring, RecurringRecord
from engine.units import FOREVER_US
from gateway.decimals import format_energy, format_price, parse_energy, parse_price
from gateway.errors import invalid, not_found
from gateway.instants import INSTANT_US_MAX, format_instant, parse_instant
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.wire import SIDE_NAMES, SIDES, Energy, Instant, Price

_ID_MAX: Final = 2**62


class RecurringRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`starts_at`: when the first period begins, now when it is left out; no period begins at `ends_at` or later;
    `count`: so many orders at most."""

    market: str
    side: Literal["buy", "sell"]
    quantity: Energy
    price: Price
    every_seconds: Annotated[int, Meta(ge=60, le=604_800)]
    starts_at: Instant | None = None
    ends_at: Instant | None = None
    count: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class RecurringOrder(Struct, frozen=True, kw_only=True):
    """`placed`: orders so far; `last_refusal`: why the last period has none."""

    recurring_id: str
    market: str
    side: str
    quantity: Energy
    price: Price
    every_seconds: int
    starts_at: Instant
    ends_at: Instant | None
    count: int | None
    placed: int
    last_refusal: str | None
    active: bool
    created_at: Instant


class RecurringController(Controller):
    path = "/recurring-orders"
    tags = ["orders"]  # noqa: RUF012 - Litestar reads it so

    @post()
    async def make(self, request: GatewayRequest, data: JSONBody[RecurringRequest]) -> RecurringOrder:
        """Have an order placed in each period; its client_order_id is `recurring:<recurring_id>:<period>`."""
        gateway, now_us = request.gateway, request.gateway.clock()
        spec = gateway.trading.spec(data.market)
        first_us = parse_instant(data.starts_at, "starts_at") if data.starts_at is not None else now_us
        if first_us < now_us:
            raise invalid("starts_at", "must not be in the past")
        ends_us = parse_instant(data.ends_at, "ends_at") if data.ends_at is not None else FOREVER_US
        if ends_us <= first_us:
            raise invalid("ends_at", "must be after the first period begins")
        if data.every_seconds > spec.order_life_seconds_max:
            raise invalid("every_seconds", f"an order lives at most {spec.order_life_seconds_max} s in {spec.symbol}")
        new = NewRecurring(
            request.caller.user_id,
            spec.market_id,
            SIDES[data.side],
            parse_price(data.price, "price"),
            parse_energy(data.quantity, "quantity"),
            data.every_seconds,
            first_us,
            ends_us,
            data.count or 0,
        )
        return _show(request, await gateway.recurring.add(new, now_us, request.origin))

    @get()
    async def search(
        self, request: GatewayRequest, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> Page[RecurringOrder]:
        """One's own recurring orders, newest first."""
        before = parse_cursor(cursor, 1)
        rows = await request.gateway.recurring.page(request.caller.user_id, before[0] if before else _ID_MAX, limit)
        items = [_show(request, row) for row in rows]
        return Page(items, cursor_of(rows[-1].recurring_id) if len(rows) == limit else None)

    @get("/{recurring_id:str}")
    async def find(self, request: GatewayRequest, recurring_id: FromPath[str]) -> RecurringOrder:
        """One of one's own."""
        return _known(request, await request.gateway.recurring.one(_number(recurring_id), request.caller.user_id))

    @delete("/{recurring_id:str}", status_code=200)
    async def stop(self, request: GatewayRequest, recurring_id: FromPath[str]) -> RecurringOrder:
        """Have no more orders placed; one that is open stays."""
        user_id, origin = request.caller.user_id, request.origin
        return _known(request, await request.gateway.recurring.stop(_number(recurring_id), user_id, origin))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise not_found("recurring order")
    return int(text)


def _known(request: GatewayRequest, row: RecurringRecord | None) -> RecurringOrder:
    if row is None:
        raise not_found("recurring order")
    return _show(request, row)


def _show(request: GatewayRequest, row: RecurringRecord) -> RecurringOrder:
    spec = request.gateway.trading.specs().get(row.market_id)
    return RecurringOrder(
        recurring_id=str(row.recurring_id),
        market=spec.symbol if spec is not None else str(row.market_id),
        side=SIDE_NAMES[row.side],
        quantity=format_energy(row.quantity_wh),
        price=format_price(row.price_micro),
        every_seconds=row.every_seconds,
        starts_at=format_instant(row.first_us),
        ends_at=format_instant(row.ends_us) if row.ends_us < INSTANT_US_MAX else None,
        count=row.count_max or None,
        placed=row.placed,
        last_refusal=row.outcome or None,
        active=row.active,
        created_at=format_instant(row.created_us),
    )
