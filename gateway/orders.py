"""Orders over HTTP: place, amend, cancel, look up. The rules are the market's; what is here is translation."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from litestar import Controller, delete, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Meta, Struct

from engine.market import MarketSpec
from engine.records import StoredOrder
from engine.views import FillView, GetOrder, OrderAnswer, OrderStatus
from gateway.errors import invalid, not_shown
from gateway.instants import INSTANT_US_MAX, format_instant, parse_instant
from gateway.limits import ORDERS
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.stream_ops import batch
from gateway.trading import BATCH_MAX, DEAD_MAN_SECONDS_MAX, AmendRequest, OrderRequest
from gateway.wire import Order, show_order

_FILLS_MAX = 10_000  # in one answer; /fills has them all
_STATUSES = {
    None: tuple(int(status) for status in OrderStatus),
    "open": (int(OrderStatus.OPEN), int(OrderStatus.PARTIALLY_FILLED)),
    "partially_filled": (int(OrderStatus.PARTIALLY_FILLED),),
    "filled": (int(OrderStatus.FILLED),),
    "cancelled": (int(OrderStatus.CANCELLED),),
    "expired": (int(OrderStatus.EXPIRED),),
}
Status = Literal["open", "partially_filled", "filled", "cancelled", "expired"]


class BatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Orders as for POST /orders, and ids of orders to cancel; at most 1,000 together. Cancels happen first."""

    orders: Annotated[list[dict[str, Any]], Meta(max_length=BATCH_MAX)] = []
    cancels: Annotated[list[str], Meta(max_length=BATCH_MAX)] = []


class BatchAnswer(Struct, frozen=True):
    """The outcomes of the orders, then of the cancels, in order: each an order or a problem."""

    results: list[Any]  # msgspec knows no union of two objects; documentation.py says what they are


class Cancelled(Struct, frozen=True):
    cancelled: int


class DeadManRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """0 switches off."""

    seconds: Annotated[int, Meta(ge=0, le=DEAD_MAN_SECONDS_MAX)]


class DeadManAnswer(Struct, frozen=True):
    cancel_at: str | None


class OrderController(Controller):
    path = "/orders"
    tags = ["orders"]  # noqa: RUF012 - Litestar reads it so

    @post()
    async def place(self, request: GatewayRequest, data: JSONBody[OrderRequest]) -> Order:
        """Place an order. A repeat with the same client_order_id gives the first result, marked `repeated`."""
        trading = request.gateway.trading
        placement = trading.placement(data, request.caller, request.idempotency_key)
        answer = await request.of_market(trading.place(placement))
        request.note_order(placement.spec, answer)
        if answer.repeated:
            request.add_header(b"idempotent-replayed", b"true")
        fills = await _all_fills(request, placement.spec, answer)
        return show_order(placement.spec, answer.order, fills, repeated=answer.repeated)

    @post("/batch", status_code=200)
    async def place_batch(self, request: GatewayRequest, data: JSONBody[BatchRequest]) -> BatchAnswer:
        """Many orders and cancels in one request; each has its own outcome."""
        count = len(data.orders) + len(data.cancels)
        if count > BATCH_MAX:
            raise invalid("orders", f"a batch has at most {BATCH_MAX} orders and cancels")
        if count > 1:
            request.gateway.limits.by_name[ORDERS].take(request.caller.user_id, count - 1)  # the guard took one
        return BatchAnswer(await batch(request.gateway, request.caller, data.orders, data.cancels))

    @get()
    async def search(
        self,
        request: GatewayRequest,
        market: FromQuery[str | None] = None,
        status: FromQuery[Status | None] = None,
        from_: Annotated[str | None, QueryParameter(name="from")] = None,
        to: FromQuery[str | None] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Order]:
        """One's own orders, newest first; `status=open` includes the partially filled. `from` counts, `to` does not."""
        gateway = request.gateway
        specs = gateway.trading.specs()
        market_id = gateway.trading.spec(market).market_id if market is not None else None
        request.mark_lag(await gateway.barrier.wait([market_id] if market_id is not None else specs))
        before = parse_cursor(cursor, 3)
        stored = await gateway.history.orders(
            request.caller.user_id,
            market_id,
            _STATUSES[status],
            parse_instant(from_, "from") if from_ is not None else 0,
            parse_instant(to, "to") if to is not None else INSTANT_US_MAX,
            (before[0], before[1], before[2]) if before is not None else None,
            limit,
        )
        filled = [(one.market_id, one.view.order_id) for one in stored if one.view.filled_wh]
        fills: dict[tuple[int, int], list[FillView]] = {}
        for fill in await gateway.history.fills_of_orders(request.caller.user_id, filled, _FILLS_MAX):
            fills.setdefault((fill.market_id, fill.view.order_id), []).append(fill.view)
        items = [
            show_order(specs[one.market_id], one.view, fills.get((one.market_id, one.view.order_id), ()))
            for one in stored
            if one.market_id in specs
        ]
        return Page(items, _next_order(stored, limit))

    @get("/{order_id:str}")
    async def find(self, request: GatewayRequest, order_id: FromPath[str]) -> Order:
        """One's own order with its fills."""
        spec, number = request.gateway.trading.locate(order_id)
        answer = await request.gateway.markets.ask(spec.market_id, GetOrder(request.caller.user_id, number))
        return await self._shown(request, spec.market_id, answer, number)

    @get("/by-client-id/{client_order_id:str}")
    async def find_by_client_id(
        self, request: GatewayRequest, client_order_id: FromPath[str], market: FromQuery[str]
    ) -> Order:
        """The newest own order with this client_order_id in this market."""
        spec = request.gateway.trading.spec(market)
        query = GetOrder(request.caller.user_id, 0, client_order_id)
        answer = await request.gateway.markets.ask(spec.market_id, query)
        if isinstance(answer, OrderAnswer):
            return await self._shown(request, spec.market_id, answer, answer.order.order_id)
        complete = request.mark_lag(await request.gateway.barrier.wait([spec.market_id]))
        stored = await request.gateway.history.order_by_client_id(
            spec.market_id, request.caller.user_id, client_order_id
        )
        if stored is None:
            raise not_shown("order", complete)
        return await self._shown(request, spec.market_id, None, stored.view.order_id)

    @patch("/{order_id:str}")
    async def amend(self, request: GatewayRequest, order_id: FromPath[str], data: JSONBody[AmendRequest]) -> Order:
        """New price, new total quantity, or both: all or nothing. Less quantity alone keeps the place in the queue."""
        spec, answer = await request.of_market(request.gateway.trading.amend(request.caller, order_id, data))
        request.note_order(spec, answer)
        return show_order(spec, answer.order, await _all_fills(request, spec, answer))

    @delete("/{order_id:str}", status_code=200)
    async def cancel(self, request: GatewayRequest, order_id: FromPath[str]) -> Order:
        """Cancel one order."""
        spec, answer = await request.of_market(request.gateway.trading.cancel(request.caller, order_id))
        request.note_order(spec, answer)
        return show_order(spec, answer.order, await _all_fills(request, spec, answer))

    @delete(status_code=200)
    async def cancel_all(self, request: GatewayRequest, market: FromQuery[str | None] = None) -> Cancelled:
        """Cancel all of one's orders, of one market or of all."""
        return Cancelled(await request.gateway.trading.cancel_all(request.caller, market))

    async def _shown(self, request: GatewayRequest, market_id: int, answer: object, number: int) -> Order:
        """The order from the market if it knows it, else from history; its fills from history."""
        gateway, participant_id = request.gateway, request.caller.user_id
        spec = gateway.trading.specs()[market_id]
        complete = request.mark_lag(await gateway.barrier.wait([market_id]))
        if isinstance(answer, OrderAnswer):
            view = answer.order
        else:
            stored = await gateway.history.order(market_id, number, participant_id)
            if stored is None:
                raise not_shown("order", complete)
            view = stored.view
        return show_order(spec, view, await _stored_fills(request, market_id, number) if view.filled_wh else ())


async def _all_fills(request: GatewayRequest, spec: MarketSpec, answer: OrderAnswer) -> Sequence[FillView]:
    """The order's fills: those of the command itself, or, when it had others before, all of them from history."""
    if sum(fill.quantity_wh for fill in answer.fills) == answer.order.filled_wh:
        return answer.fills
    request.mark_lag(await request.gateway.barrier.wait([spec.market_id]))
    return await _stored_fills(request, spec.market_id, answer.order.order_id)


async def _stored_fills(request: GatewayRequest, market_id: int, order_id: int) -> list[FillView]:
    """From history, which the caller has waited for; oldest first."""
    history, participant_id = request.gateway.history, request.caller.user_id
    stored = await history.fills_of_orders(participant_id, [(market_id, order_id)], _FILLS_MAX)
    return [fill.view for fill in stored]


class DeadManController(Controller):
    path = "/users/me/cancel-all-after"
    tags = ["orders"]  # noqa: RUF012 - Litestar reads it so

    @post(status_code=200)
    async def set_dead_man(self, request: GatewayRequest, data: JSONBody[DeadManRequest]) -> DeadManAnswer:
        """Cancel all of one's orders unless this is called again in time."""
        at_us = await request.gateway.trading.cancel_all_after(request.caller, data.seconds)
        return DeadManAnswer(format_instant(at_us) if at_us else None)


def _next_order(stored: list[StoredOrder], limit: int) -> str | None:
    if len(stored) < limit:
        return None
    last = stored[-1]
    return cursor_of(last.view.created_us, last.market_id, last.view.order_id)
