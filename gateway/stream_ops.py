"""The operations of a WebSocket connection, and what each answers.

    {"op": "place", "id": 1, "order": {...}}       -> {"id": 1, "ok": true, "order": {...}}; the order's fields may also
                                                      stand beside `op` and `id`
    ["o", id, market, side 0|1, price_micro, quantity_wh, client_order_id, flags]       binary frames only
        flags: 1 post_only, 2 ioc, 4 fok           -> ["a", id, order_id, status, sequence, filled_wh]
                                                      or ["e", id, code, detail]

Which role may use which operation and channel is in permissions.py.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal, Protocol

from msgspec import Meta, Struct

from engine.messages import OrderKind, PlaceOrder, RejectCode, Side, TimeInForce
from engine.units import ENERGY_WH_MAX, PRICE_MICRO_MAX
from engine.views import ListOpenOrders, Orders
from gateway.auth.callers import Caller
from gateway.context import Gateway
from gateway.decimals import parse_price
from gateway.errors import GatewayCode, Problem, invalid, not_found
from gateway.feed import BALANCES, ENERGY, ORDERS
from gateway.instants import format_instant
from gateway.message import Message
from gateway.permissions import ADMIN, CHANNELS, OPERATIONS, ROUTES, Permission, check
from gateway.requests import CLIENT_ID, convert
from gateway.trading import BATCH_MAX, DEAD_MAN_SECONDS_MAX, AmendRequest, OrderRequest, Placement
from gateway.wire import STATUS_NAMES, Order, show_balance, show_order

POST_ONLY, IOC, FOK = 1, 2, 4
_COMPACT_LENGTH: Final = 8
_MARKET: Final = 2  # its place in a compact order
_WATCH_SECONDS: Final = 2.0  # how long a subscription to own channels waits for the markets to confirm it
_PREFIX: Final = ("op", "id")


class Client(Protocol):
    """The connection, as its operations see it."""

    binary: bool

    def push(self, message: Message) -> None: ...

    def answer(self, body: Any, *, binary: bool) -> None: ...

    def balances_changed(self, market_id: int) -> None: ...


class AuthOp(Struct, frozen=True):
    """One of the two."""

    token: str = ""
    api_key: str = ""

    def __repr__(self) -> str:
        return "AuthOp(...)"


class ChannelsOp(Struct, frozen=True):
    """One channel or several, of one market or several; own channels have no market."""

    channel: str | None = None
    channels: list[str] = []
    market: str | None = None
    markets: list[str] = []


class BatchOp(Struct, frozen=True):
    orders: Annotated[list[dict[str, Any]], Meta(max_length=BATCH_MAX)] = []
    cancels: Annotated[list[str], Meta(max_length=BATCH_MAX)] = []


class AmendOp(Struct, frozen=True):
    order_id: str


class CancelOp(Struct, frozen=True):
    order_id: str


class CancelAllOp(Struct, frozen=True):
    market: str | None = None


class CancelAllAfterOp(Struct, frozen=True):
    seconds: Annotated[int, Meta(ge=0, le=DEAD_MAN_SECONDS_MAX)]


class AlertOp(Struct, frozen=True):
    """Tell once when the market trades at this price or beyond."""

    market: str
    price: str
    when: Literal["at_or_above", "at_or_below"]


class DropAlertOp(Struct, frozen=True):
    alert_id: str


class Operations:
    """Who is logged in on one connection, what he subscribed to, and what he asks for."""

    def __init__(self, gateway: Gateway, client: Client) -> None:
        self._gateway, self._client = gateway, client
        self._login = AuthOp()
        self._caller: Caller | None = None
        self._channels: set[tuple[str, str]] = set()  # (channel, symbol; "" for own channels)
        self._handlers: dict[str, Callable[[dict[str, Any], bool], Awaitable[dict[str, Any]]]] = {
            "auth": self._auth,
            "ping": self._ping,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "place": self._place,
            "place_batch": self._place_batch,
            "amend": self._amend,
            "cancel": self._cancel,
            "cancel_all": self._cancel_all,
            "cancel_all_after": self._cancel_all_after,
            "alert": self._alert,
            "drop_alert": self._drop_alert,
        }

    async def serve(self, request: Any, *, binary: bool) -> dict[str, Any]:
        """The answer to one decoded frame. Raises Problem for a refusal."""
        if not isinstance(request, dict):
            raise Problem(RejectCode.VALIDATION_FAILED, "a request is an object with op and id")
        name = request.get("op")
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            raise invalid("op", f"must be one of {', '.join(self._handlers)}")
        assert isinstance(name, str)
        await self._check(OPERATIONS[name])
        return {"id": request.get("id"), "ok": True, **await handler(request, binary)}

    async def renew(self, *, beside: bool = False) -> None:
        """Look at the login again. Raises Problem when it is over.

        Done from time to time, the look before an order (`beside`) never waits, and orders keep their order.
        """
        if self._caller is not None:
            login, before = self._login, self._caller
            self._caller = await self._gateway.callers.of(login.token, login.api_key, beside=beside)
            if (self._caller.role, self._caller.zone) != (before.role, before.zone):
                self._follow_flow(self._caller)

    async def balances(self, complete: bool) -> dict[str, Any]:
        """The message of the channel `balances`."""
        caller = await self._trader()
        currency = self._gateway.settings.currency
        items = [show_balance(one, currency) for one in await self._gateway.ledger.balances(caller.user_id)]
        return {"channel": BALANCES, "type": "snapshot", "items": items, "complete": complete}

    def leave(self) -> None:
        self._gateway.flows.unsubscribe(self._client)
        self._gateway.feeds.forget(self._client, self._caller.user_id if self._caller else None)

    # --- login -------------------------------------------------------------------------------------------------------

    async def _check(self, permission: Permission) -> None:
        if permission.roles:
            await self.renew(beside=True)
            check(self._caller, permission)

    async def _trader(self) -> Caller:
        await self.renew(beside=True)
        if self._caller is None:
            raise Problem(GatewayCode.UNAUTHENTICATED, "this needs an access token")
        return self._caller

    async def _auth(self, request: dict[str, Any], _: bool) -> dict[str, Any]:
        login = convert(request, AuthOp)
        if bool(login.token) == bool(login.api_key):
            raise invalid("token", "send either token or api_key")
        caller = await self._gateway.callers.of(login.token, login.api_key)
        if self._caller is not None and self._caller.user_id != caller.user_id:
            raise Problem(RejectCode.CONFLICT, "the connection belongs to another user: open a new one")
        self._login, self._caller = login, caller
        return {"user_id": str(caller.user_id), "role": caller.role, "expires_at": format_instant(caller.expires_us)}

    async def _ping(self, _request: dict[str, Any], _: bool) -> dict[str, Any]:
        return {"op": "pong", "time": format_instant(self._gateway.clock())}

    # --- channels ----------------------------------------------------------------------------------------------------

    async def _subscribe(self, request: dict[str, Any], binary: bool) -> dict[str, Any]:
        wanted = self._wanted(convert(request, ChannelsOp))
        for channel, _symbol in wanted:
            await self._check(CHANNELS[channel])
        if len(self._channels | set(wanted)) > self._gateway.settings.socket_channels_max:
            raise Problem(RejectCode.CONFLICT, "too many subscriptions on one connection")
        self._client.binary = binary
        for channel, symbol in wanted:
            self._channels.add((channel, symbol))
            if symbol:
                self._gateway.feeds.subscribe(channel, self._gateway.trading.spec(symbol), self._client)
            else:
                await self._subscribe_own(channel)
        return {"channels": [{"channel": c, "market": s or None} for c, s in wanted]}

    async def _subscribe_own(self, channel: str) -> None:
        caller = await self._trader()
        await self._gateway.feeds.subscribe_own(channel, caller.user_id, self._client, _WATCH_SECONDS)
        if channel == ENERGY:
            self._follow_flow(caller)
        elif channel == ORDERS:
            await self._push_open_orders(caller)
        elif channel == BALANCES:
            for spec in self._gateway.markets.markets().values():
                self._client.balances_changed(spec.market_id)

    def _follow_flow(self, caller: Caller) -> None:
        """With one's own windows comes the flow of zones, as far as one may see it."""
        self._gateway.flows.unsubscribe(self._client)
        if (ENERGY, "") in self._channels and caller.role in ROUTES["GET", "/api/v1/analytics/flow"].roles:
            self._gateway.flows.subscribe(self._client, None if caller.role == ADMIN else caller.zone)

    async def _push_open_orders(self, caller: Caller) -> None:
        """Each market's open orders, as of now; updates that overlap carry their sequence."""
        specs = list(self._gateway.markets.markets().values())
        query = ListOpenOrders(caller.user_id)
        answers = await asyncio.gather(*(self._gateway.markets.ask(spec.market_id, query) for spec in specs))
        for spec, answer in zip(specs, answers, strict=True):
            if isinstance(answer, Orders):
                orders = [show_order(spec, view, ()) for view in answer.items]
                body = {"channel": ORDERS, "type": "snapshot", "market": spec.symbol, "orders": orders}
                self._client.push(Message(body))

    async def _unsubscribe(self, request: dict[str, Any], _: bool) -> dict[str, Any]:
        wanted = self._wanted(convert(request, ChannelsOp))
        for channel, symbol in wanted:
            self._channels.discard((channel, symbol))
            if symbol:
                self._gateway.feeds.unsubscribe(channel, self._gateway.trading.spec(symbol), self._client)
            elif self._caller is not None:
                self._gateway.feeds.unsubscribe_own(channel, self._caller.user_id, self._client)
                self._follow_flow(self._caller)
        return {"channels": [{"channel": c, "market": s or None} for c, s in wanted]}

    def _wanted(self, op: ChannelsOp) -> list[tuple[str, str]]:
        """Every (channel, symbol) that is named; all of them are known."""
        channels = [*([op.channel] if op.channel is not None else []), *op.channels]
        symbols = [*([op.market] if op.market is not None else []), *op.markets]
        if not channels:
            raise invalid("channel", "name at least one")
        wanted = []
        for channel in channels:
            if channel not in CHANNELS:
                raise invalid("channel", f"must be one of {', '.join(CHANNELS)}")
            if CHANNELS[channel].roles:
                wanted.append((channel, ""))
                continue
            if not symbols:
                raise invalid("market", f"the channel {channel} needs one")
            wanted.extend((channel, self._gateway.trading.spec(symbol).symbol) for symbol in symbols)
        return wanted

    # --- orders ------------------------------------------------------------------------------------------------------

    async def _place(self, request: dict[str, Any], _: bool) -> dict[str, Any]:
        caller = await self._trader()
        self._gateway.limits.orders.take(caller.user_id)
        inner = request.get("order")
        fields = inner if isinstance(inner, dict) else _without(request, *_PREFIX)
        placement = self._gateway.trading.placement(convert(fields, OrderRequest), caller)
        answer = await self._gateway.trading.place(placement)
        return {"order": show_order(placement.spec, answer.order, answer.fills, repeated=answer.repeated)}

    async def _place_batch(self, request: dict[str, Any], _: bool) -> dict[str, Any]:
        caller = await self._trader()
        op = convert(request, BatchOp)
        if len(op.orders) + len(op.cancels) > BATCH_MAX:
            raise invalid("orders", f"a batch has at most {BATCH_MAX} orders and cancels")
        self._gateway.limits.orders.take(caller.user_id, len(op.orders) + len(op.cancels))
        return {"results": await batch(self._gateway, caller, op.orders, op.cancels)}

    async def _amend(self, request: dict[str, Any], _: bool) -> dict[str, Any]:
        caller = await self._trader()
        self._gateway.limits.orders.take(caller.user_id)
        order_id = convert(request, AmendOp).order_id
        amend = convert(_without(request, *_PREFIX, "order_id"), AmendRequest)
        spec, answer = await self._gateway.trading.amend(caller, order_id, amend)
        return {"order": show_order(spec, answer.order, answer.fills)}

    async def _cancel(self, request: dict[str, Any], _: bool) -> dict[str, Any]:
        caller = await self._trader()
        self._gateway.limits.orders.take(caller.user_id)
        spec, answer = await self._gateway.trading.cancel(caller, convert(request, CancelOp).order_id)
        return {"order": show_order(spec, answer.order, answer.fills)}

    async def _cancel_all(self, request: dict[str, Any], _: bool) -> dict[str, Any]:
        caller = await self._trader()
        self._gateway.limits.orders.take(caller.user_id)
        return {"cancelled": await self._gateway.trading.cancel_all(caller, convert(request, CancelAllOp).market)}

    async def _cancel_all_after(self, request: dict[str, Any], _: bool) -> dict[str, Any]:
        caller = await self._trader()
        seconds = convert(request, CancelAllAfterOp).seconds
        at_us = await self._gateway.trading.cancel_all_after(caller, seconds)
        return {"cancel_at": format_instant(at_us) if at_us else None}

    # --- alerts ------------------------------------------------------------------------------------------------------

    async def _alert(self, request: dict[str, Any], binary: bool) -> dict[str, Any]:
        caller = await self._trader()
        op = convert(request, AlertOp)
        price, spec = parse_price(op.price, "price"), self._gateway.trading.spec(op.market)
        self._client.binary = binary
        alerts, rises = self._gateway.feeds.alerts, op.when == "at_or_above"
        return {"alert_id": str(alerts.set(spec, caller.user_id, price, rises, self._client))}

    async def _drop_alert(self, request: dict[str, Any], _: bool) -> dict[str, Any]:
        caller, alert_id = await self._trader(), convert(request, DropAlertOp).alert_id
        known = alert_id.isascii() and alert_id.isdigit() and len(alert_id) <= 18
        if not known or not self._gateway.feeds.alerts.drop(caller.user_id, int(alert_id)):
            raise not_found("alert")
        return {}

    async def serve_burst(self, burst: list[list[Any]]) -> None:
        """Answer compact orders for one market that arrived together: integers and arrays, not decimals and objects.

        Raises Problem for the login, which is the refusal of them all.
        """
        await self._check(OPERATIONS["place"])
        caller = await self._trader()
        requests: list[Any] = []
        placements: list[Placement] = []
        for request in burst:
            try:
                self._gateway.limits.orders.take(caller.user_id)
                placements.append(self._compact_placement(request, caller))
                requests.append(request)
            except Problem as problem:
                self._client.answer(problem_answer(request, problem), binary=True)
        outcomes = await self._gateway.trading.place_many(placements)
        for request, placement, outcome in zip(requests, placements, outcomes, strict=True):
            if isinstance(outcome, Problem):
                self._client.answer(problem_answer(request, outcome), binary=True)
                continue
            order = outcome.order
            order_id = f"{placement.spec.market_id}-{order.order_id}"
            status = STATUS_NAMES[order.status]
            self._client.answer(["a", request[1], order_id, status, order.sequence, order.filled_wh], binary=True)

    def _compact_placement(self, request: list[Any], caller: Caller) -> Placement:
        if len(request) != _COMPACT_LENGTH:
            raise Problem(RejectCode.VALIDATION_FAILED, f"an order has {_COMPACT_LENGTH} places")
        _, _, market, side, price_micro, quantity_wh, client_order_id, flags = request
        if type(market) is not str:
            raise invalid("market", "must be a symbol")
        if type(side) is not int or side not in (0, 1):
            raise invalid("side", "must be 0 or 1")
        if type(price_micro) is not int or not 0 < price_micro <= PRICE_MICRO_MAX:
            raise invalid("price_micro", f"must be 1 to {PRICE_MICRO_MAX}")
        if type(quantity_wh) is not int or not 0 < quantity_wh <= ENERGY_WH_MAX:
            raise invalid("quantity_wh", f"must be 1 to {ENERGY_WH_MAX}")
        if client_order_id and (type(client_order_id) is not str or not CLIENT_ID.fullmatch(client_order_id)):
            raise invalid("client_order_id", "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -")
        time_in_force = _COMPACT_TIMES.get(flags) if type(flags) is int else None
        if time_in_force is None:
            raise invalid("flags", "must be 0, or one of 1 post_only, 2 ioc, 4 fok")
        command = PlaceOrder(
            caller.user_id,
            Side(side),
            price_micro,
            quantity_wh,
            caller.zone,
            client_order_id or "",
            OrderKind.LIMIT,
            time_in_force,
            0,
            flags == POST_ONLY,
        )
        return Placement(self._gateway.trading.spec(market), command)


_COMPACT_TIMES: Final = {
    0: TimeInForce.GTC,
    POST_ONLY: TimeInForce.GTC,
    IOC: TimeInForce.IOC,
    FOK: TimeInForce.FOK,
}


async def batch(
    gateway: Gateway, caller: Caller, orders: list[dict[str, Any]], cancels: list[str]
) -> list[Order | dict[str, Any]]:
    """Cancels go first, so that what they free backs the orders; results are the orders', then the cancels'.

    Each has its own outcome: one bad order leaves the others alone.
    """
    trading = gateway.trading
    placements: list[Placement | Problem] = []
    for request in _order_requests(orders):
        try:
            placements.append(request if isinstance(request, Problem) else trading.placement(request, caller))
        except Problem as problem:
            placements.append(problem)
    cancelled = await trading.cancel_many(caller, cancels)
    good = [one for one in placements if not isinstance(one, Problem)]
    outcomes = iter(await trading.place_many(good))
    results: list[Order | dict[str, Any]] = []
    for placement in placements:
        outcome = placement if isinstance(placement, Problem) else next(outcomes)
        if isinstance(outcome, Problem):
            results.append(outcome.body())
        else:
            assert not isinstance(placement, Problem)
            results.append(show_order(placement.spec, outcome.order, outcome.fills, repeated=outcome.repeated))
    results += [one.body() if isinstance(one, Problem) else show_order(one[0], one[1].order, ()) for one in cancelled]
    return results


def _order_requests(orders: list[dict[str, Any]]) -> list[OrderRequest] | list[OrderRequest | Problem]:
    """All at once when all are good, which is three times as fast as one by one."""
    try:
        return convert(orders, list[OrderRequest])
    except Problem:
        return [_order_request(fields) for fields in orders]


def _order_request(fields: dict[str, Any]) -> OrderRequest | Problem:
    try:
        return convert(fields, OrderRequest)
    except Problem as problem:
        return problem


def is_compact(request: Any) -> bool:
    return isinstance(request, list) and bool(request) and request[0] == "o"


def market_of(request: list[Any]) -> str:
    """The market that a compact order names; whether it exists is looked at later."""
    return request[_MARKET] if len(request) > _MARKET and isinstance(request[_MARKET], str) else ""


def problem_answer(request: Any, problem: Problem) -> Any:
    """A refusal in the form of the request it answers."""
    if is_compact(request):
        return ["e", request[1] if len(request) > 1 else None, problem.code.name, problem.detail]
    number = request.get("id") if isinstance(request, dict) else None
    return {"id": number, "ok": False, "error": problem.body()}


def _without(request: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in names}
