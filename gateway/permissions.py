"""Who may do what: one table, read by the guard itself, so that a route that is not in it cannot be served.

A missing permission is 403. Other people's objects are 404 and are no matter of this table: every query carries its
owner. A row names the roles, the scope that an API key needs beside its owner's role (none: never with a key), and the
limit that the route draws on.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from time import perf_counter
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.addresses import subscriber_of
from gateway.auth.callers import Caller
from gateway.context import Gateway
from gateway.edge import Visit, visit_of
from gateway.errors import GatewayCode, Problem, invalid
from gateway.limits import LOGIN, ORDERS, PASSWORD, REGISTRATION, REQUESTS, SHARED

ANYONE: Final[frozenset[str]] = frozenset()  # also without a login
STUDENT, FACULTY, ADMIN, AMI = "student", "faculty", "admin", "ami"
ROLES: Final = frozenset({STUDENT, FACULTY, ADMIN, AMI})
TRADERS: Final = frozenset({STUDENT, FACULTY, ADMIN})  # an admin as himself; a head-end system never
ADMINS: Final = frozenset({ADMIN})
READ, TRADE, METER = "read", "trade", "meter"
SCOPES: Final = frozenset({READ, TRADE, METER})


class Permission(NamedTuple):
    roles: frozenset[str]
    limit: str = REQUESTS
    checked: bool = True  # False: no token is looked at and no limit drawn on, as for health
    scope: str = ""  # that a key needs; empty: a key will not do, it takes a login


_FREE: Final = Permission(ANYONE, checked=False)
_PUBLIC: Final = Permission(ANYONE)
_ANY: Final = Permission(ROLES)
_OWN: Final = Permission(TRADERS, scope=READ)
_TRADE: Final = Permission(TRADERS, scope=TRADE)
_ORDER: Final = Permission(TRADERS, ORDERS, scope=TRADE)
_ADMIN: Final = Permission(ADMINS)
_METER: Final = Permission(ROLES, scope=METER)  # a head-end too, for the meters that it speaks for
_ZONE: Final = Permission(frozenset({FACULTY, ADMIN}), scope=READ)  # faculty their own, which the handler looks at
_OWN_METER: Final = Permission(TRADERS, scope=METER)

ROUTES: Final[Mapping[tuple[str, str], Permission]] = {
    # people
    ("POST", "/api/v1/auth/register"): Permission(ANYONE, REGISTRATION),
    ("POST", "/api/v1/auth/login"): Permission(ANYONE, LOGIN),
    ("POST", "/api/v1/auth/refresh"): _PUBLIC,
    ("POST", "/api/v1/auth/logout"): _PUBLIC,  # with an access or a refresh token: the handler looks
    ("GET", "/api/v1/users/me"): Permission(ROLES, scope=READ),
    ("PATCH", "/api/v1/users/me"): _ANY,
    ("POST", "/api/v1/users/me/password"): Permission(ROLES, PASSWORD),
    ("GET", "/api/v1/users/me/sessions"): _ANY,
    ("DELETE", "/api/v1/users/me/sessions"): _ANY,
    ("DELETE", "/api/v1/users/me/sessions/{session_id}"): _ANY,
    ("GET", "/api/v1/users/me/api-keys"): _ANY,
    ("POST", "/api/v1/users/me/api-keys"): _ANY,
    ("DELETE", "/api/v1/users/me/api-keys/{key_id}"): _ANY,
    ("GET", "/api/v1/users/me/wallets"): _ANY,
    ("POST", "/api/v1/users/me/wallets"): _ANY,
    ("POST", "/api/v1/users/me/wallets/challenge"): _ANY,
    ("PATCH", "/api/v1/users/me/wallets/{address}"): _ANY,
    ("DELETE", "/api/v1/users/me/wallets/{address}"): _ANY,
    ("POST", "/api/v1/users/me/cancel-all-after"): _TRADE,
    ("GET", "/api/v1/admin/users"): _ADMIN,
    ("GET", "/api/v1/admin/users/{user_id}"): _ADMIN,
    ("PATCH", "/api/v1/admin/users/{user_id}"): _ADMIN,
    ("POST", "/api/v1/admin/users/{user_id}/unlock"): _ADMIN,
    ("POST", "/api/v1/admin/users/{user_id}/kill"): _ADMIN,
    ("DELETE", "/api/v1/admin/users/{user_id}/kill"): _ADMIN,
    ("GET", "/api/v1/admin/ami-keys"): _ADMIN,
    ("POST", "/api/v1/admin/ami-keys"): _ADMIN,
    ("DELETE", "/api/v1/admin/ami-keys/{key_id}"): _ADMIN,
    ("GET", "/api/v1/admin/audit"): _ADMIN,
    # markets and market data
    ("GET", "/api/v1/markets"): _PUBLIC,
    ("GET", "/api/v1/markets/{symbol}"): _PUBLIC,
    ("GET", "/api/v1/markets/{symbol}/book"): _PUBLIC,
    ("GET", "/api/v1/markets/{symbol}/trades"): _PUBLIC,
    ("GET", "/api/v1/markets/{symbol}/ticker"): _PUBLIC,
    ("GET", "/api/v1/markets/{symbol}/candles"): _PUBLIC,
    ("GET", "/api/v1/markets/{symbol}/stats"): _PUBLIC,
    ("GET", "/api/v1/markets/{symbol}/liquidity"): _PUBLIC,
    ("GET", "/api/v1/markets/{symbol}/epochs"): _PUBLIC,
    ("GET", "/api/v1/markets/{symbol}/epochs/{start}"): _PUBLIC,
    ("GET", "/api/v1/markets/{symbol}/epochs/{start}/certificate"): _PUBLIC,
    ("POST", "/api/v1/markets"): _ADMIN,
    ("PATCH", "/api/v1/markets/{symbol}"): _ADMIN,
    ("POST", "/api/v1/markets/{symbol}/halt"): _ADMIN,
    ("POST", "/api/v1/markets/{symbol}/resume"): _ADMIN,
    ("POST", "/api/v1/markets/{symbol}/cancel-all"): _ADMIN,
    ("GET", "/api/v1/markets/{symbol}/makers"): _ADMIN,
    ("PUT", "/api/v1/markets/{symbol}/makers/{user_id}"): _ADMIN,
    ("DELETE", "/api/v1/markets/{symbol}/makers/{user_id}"): _ADMIN,
    ("GET", "/api/v1/zones"): _ADMIN,
    ("PUT", "/api/v1/zones"): _ADMIN,
    ("GET", "/api/v1/zones/costs"): _ADMIN,
    ("PUT", "/api/v1/zones/costs"): _ADMIN,
    ("GET", "/api/v1/zones/capacities"): _ADMIN,
    ("PUT", "/api/v1/zones/capacities"): _ADMIN,
    # trading
    ("POST", "/api/v1/orders"): _ORDER,
    ("POST", "/api/v1/orders/batch"): _ORDER,
    ("GET", "/api/v1/orders"): _OWN,
    ("DELETE", "/api/v1/orders"): _ORDER,
    ("GET", "/api/v1/orders/{order_id}"): _OWN,
    ("PATCH", "/api/v1/orders/{order_id}"): _ORDER,
    ("DELETE", "/api/v1/orders/{order_id}"): _ORDER,
    ("GET", "/api/v1/orders/by-client-id/{client_order_id}"): _OWN,
    ("POST", "/api/v1/recurring-orders"): _TRADE,
    ("GET", "/api/v1/recurring-orders"): _OWN,
    ("GET", "/api/v1/recurring-orders/{recurring_id}"): _OWN,
    ("DELETE", "/api/v1/recurring-orders/{recurring_id}"): _TRADE,
    ("GET", "/api/v1/risk/limits"): _OWN,
    ("GET", "/api/v1/risk/limits/{user_id}"): _ADMIN,
    ("PUT", "/api/v1/risk/limits/{user_id}"): _ADMIN,
    ("GET", "/api/v1/fills"): _OWN,
    ("GET", "/api/v1/positions"): _OWN,
    ("GET", "/api/v1/balances"): _OWN,
    ("GET", "/api/v1/ledger"): _OWN,
    ("GET", "/api/v1/deposits"): _OWN,
    ("POST", "/api/v1/deposits"): Permission(TRADERS),
    ("GET", "/api/v1/admin/ledger/trial-balance"): _ADMIN,
    # meters and energy
    ("POST", "/api/v1/meters"): _OWN_METER,
    ("GET", "/api/v1/meters"): _METER,
    ("GET", "/api/v1/meters/{meter_id}"): _METER,
    ("PATCH", "/api/v1/meters/{meter_id}"): _OWN_METER,
    ("POST", "/api/v1/meters/{meter_id}/assignments"): _ADMIN,
    ("GET", "/api/v1/meters/{meter_id}/readings"): _METER,
    ("POST", "/api/v1/readings"): _METER,
    ("POST", "/api/v1/readings/ocmf"): _METER,
    ("GET", "/api/v1/energy/windows"): _OWN,
    ("GET", "/api/v1/energy/balance"): _OWN,
    # settlement and oracle
    ("GET", "/api/v1/trades/{trade_id}/settlement"): _OWN,
    ("GET", "/api/v1/chain/settlements"): _PUBLIC,
    ("GET", "/api/v1/chain/settlements/{settlement_id}"): _PUBLIC,
    ("POST", "/api/v1/oracle/submissions"): _PUBLIC,  # a submission proves itself by its signature
    ("GET", "/api/v1/oracle/feeds"): _PUBLIC,
    ("GET", "/api/v1/oracle/feeds/{feed}"): _PUBLIC,
    ("GET", "/api/v1/oracle/feeds/{feed}/rounds"): _PUBLIC,
    ("POST", "/api/v1/oracle/feeds"): _ADMIN,
    ("PATCH", "/api/v1/oracle/feeds/{feed}"): _ADMIN,
    ("GET", "/api/v1/oracle/providers"): _ADMIN,
    ("POST", "/api/v1/oracle/providers"): _ADMIN,
    ("PATCH", "/api/v1/oracle/providers/{provider_id}"): _ADMIN,
    ("GET", "/api/v1/analytics/flow"): _ZONE,
    ("GET", "/api/v1/analytics/self-consumption"): _OWN,
    ("GET", "/api/v1/analytics/trend"): _OWN,
    ("GET", "/api/v1/analytics/carbon"): _OWN,
    ("GET", "/api/v1/analytics/peers"): _OWN,
    ("GET", "/api/v1/analytics/earnings"): _OWN,
    ("GET", "/api/v1/analytics/performance"): _OWN,
    ("GET", "/api/v1/analytics/recommendations"): _OWN,
    ("GET", "/api/v1/analytics/market-makers"): _OWN,
    ("GET", "/api/v1/reports/daily"): _OWN,
    ("GET", "/api/v1/reports/monthly"): _OWN,
    ("GET", "/api/v1/rates"): _OWN,
    ("PUT", "/api/v1/admin/rates"): _ADMIN,
    # the chain
    ("GET", "/api/v1/chain/status"): _OWN,
    ("GET", "/api/v1/chain/transactions"): _OWN,  # an admin sees everybody's
    ("GET", "/api/v1/chain/transactions/{id}"): _OWN,
    ("POST", "/api/v1/chain/transactions/{id}/retry"): _ADMIN,
    ("POST", "/api/v1/chain/transactions/{id}/park"): _ADMIN,
    ("POST", "/api/v1/chain/governance/pause"): _ADMIN,
    ("POST", "/api/v1/chain/governance/unpause"): _ADMIN,
    ("POST", "/api/v1/chain/governance/propose"): _ADMIN,
    ("POST", "/api/v1/chain/governance/accept"): _ADMIN,
    ("GET", "/api/v1/chain/tokens"): _OWN,
    ("GET", "/api/v1/withdrawals"): _OWN,
    ("POST", "/api/v1/withdrawals"): Permission(TRADERS),  # money leaves: never with a key
    # operations
    ("GET", "/status"): _FREE,  # a page without anything in it; it asks for the next as the admin who logs in
    ("GET", "/api/v1/admin/status"): _ADMIN,
    ("POST", "/api/v1/admin/actors/{name}/replacement"): _ADMIN,
    ("GET", "/api/v1/admin/actors/{name}/replacement"): _ADMIN,
    ("GET", "/health"): _FREE,
    ("GET", "/health/live"): _FREE,
    ("GET", "/health/ready"): _FREE,
    ("GET", "/ready"): _FREE,
    ("GET", "/api/v1/health"): _FREE,
    ("GET", "/api/v1/health/live"): _FREE,
    ("GET", "/api/v1/health/ready"): _FREE,
    ("GET", "/.well-known/jwks.json"): _FREE,
    ("GET", "/schema"): _FREE,
    ("GET", "/schema/openapi.json"): _FREE,
    ("GET", "/schema/{path}"): _FREE,  # what is not there
    # sockets: anyone may connect; the operations have their own table
    ("WEBSOCKET", "/ws"): _FREE,
    ("WEBSOCKET", "/api/v1/ws"): _FREE,
}

OPERATIONS: Final[Mapping[str, Permission]] = {
    "auth": _PUBLIC,
    "ping": _PUBLIC,
    "subscribe": _PUBLIC,  # to what: CHANNELS
    "unsubscribe": _PUBLIC,
    "place": _TRADE,
    "place_batch": _TRADE,
    "amend": _TRADE,
    "cancel": _TRADE,
    "cancel_all": _TRADE,
    "cancel_all_after": _TRADE,
    "alert": _OWN,
    "drop_alert": _OWN,
}

CHANNELS: Final[Mapping[str, Permission]] = {
    "book": _PUBLIC,
    "trades": _PUBLIC,
    "ticker": _PUBLIC,
    "epochs": _PUBLIC,
    "orders": _OWN,
    "fills": _OWN,
    "balances": _OWN,
    "energy": _OWN,
}


def permission_of(method: str, path: str) -> Permission:
    """Raises KeyError for what is not in the table. OPTIONS tells nothing but the methods of a route."""
    return _FREE if method == "OPTIONS" else ROUTES[method, path]


def methods_of(path: str) -> str:
    """The value of `Allow` for a path as it was asked for; empty when no route has it."""
    routes = [(method, template) for method, template in ROUTES if method != "WEBSOCKET"]
    methods = {method for method, template in routes if template == path} or {
        method for method, template in routes if _pattern(template).fullmatch(path)
    }
    return ", ".join(sorted({*methods, "OPTIONS"})) if methods else ""


@lru_cache(maxsize=len(ROUTES))
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template)) + "/?")


def check(caller: Caller | None, permission: Permission) -> None:
    """None: nobody is logged in. Raises UNAUTHENTICATED or FORBIDDEN."""
    if not permission.roles:
        return
    if caller is None:
        raise Problem(GatewayCode.UNAUTHENTICATED, "this needs an access token or an API key")
    if caller.role not in permission.roles:
        raise Problem(GatewayCode.FORBIDDEN, "this role may not do this")
    if caller.key_id and permission.scope not in caller.scopes:
        needs = f"the scope {permission.scope}" if permission.scope else "a login: no API key may do it"
        raise Problem(GatewayCode.FORBIDDEN, f"this needs {needs}")


class Guard:
    """ASGI middleware around every handler: the table, the token or key, the limit, in this order.

    A middleware and not a Litestar guard, because before each guard Litestar copies the whole handler.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = str(scope.get("method", "WEBSOCKET"))
        permission = permission_of(method, scope["path_template"])
        query = scope["query_string"]
        if query and (b"%" in query or b"null" in query.lower()):
            _refuse_null(query)
        if permission.checked:
            began = perf_counter()
            await self._check(scope, permission)
            visit_of(scope).authenticating = perf_counter() - began
        if method == "OPTIONS":  # Litestar's own answer knows one handler's methods, not the path's
            await _options(scope, send)
        else:
            await self._app(scope, receive, send)

    async def _check(self, scope: Scope, permission: Permission) -> None:
        gateway: Gateway = scope["app"].state["gateway"]
        visit, client = visit_of(scope), scope.get("client")
        address = subscriber_of(client[0]) if client else ""
        try:
            caller = await self._caller(gateway, visit, permission)
            check(caller, permission)
        except Problem:
            visit.drawn = gateway.limits.drawn(REQUESTS, address, None)
            gateway.limits.requests.take(address)  # who guesses is slowed down like who asks
            raise
        scope["user"] = caller
        drawn = visit.drawn = gateway.limits.drawn(permission.limit, address, caller.user_id if caller else None)
        drawn.buckets.take(drawn.key)
        if permission.limit in SHARED:
            await gateway.limits.take_shared(drawn)

    async def _caller(self, gateway: Gateway, visit: Visit, permission: Permission) -> Caller | None:
        scheme, _, token = visit.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        api_key = visit.headers.get(b"x-api-key", b"").decode("latin-1")
        if token and api_key:
            raise Problem(GatewayCode.UNAUTHENTICATED, "send an access token or an API key, not both")
        if not token and not api_key:
            return None
        try:
            return await gateway.callers.of(token, api_key)
        except Problem:
            if permission.roles:
                raise
            return None  # a public route does not mind a stale token: it is somebody reading the market


def _refuse_null(query: bytes) -> None:
    """The decoder of parameters takes the word `null` for a parameter that is not there: `DELETE /orders?market=null`
    would end orders in all markets. Whoever searches for the word may.
    """
    for name, value in parse_qsl(query.decode("latin-1")):
        if value.lower() == "null" and name != "q":
            raise invalid(name, "must have a value, or be left out")


async def _options(scope: Scope, send: Send) -> None:
    allowed = methods_of(scope["path"]).encode()
    await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", allowed)]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
