"""Routes that are asked thousands of times a second, without the framework between the edge and their handlers.

Litestar's way to a handler and back costs half as much as all of ours (docs/performance.md). Of it these routes need
little: guard and repeats, the body as the type that the handler declares, its answer as JSON, an exception as a
problem. They stay routes of the application, which documents them, and which gets what is not as plain as requests for
them are.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from litestar import Litestar, Request, Response
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.edge import request_headers
from gateway.permissions import Guard
from gateway.repeats import Repeats
from gateway.requests import GatewayRequest, written

DIRECT: Final = (("POST", "/api/v1/orders"), ("POST", "/api/v1/orders/batch"))
_TAKEN: Final = {"request", "data"}
_PLAIN_HOST: Final = re.compile(rb"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?")

AnswerError = Callable[[Request[Any, Any, Any], Exception], Response[Any]]


class Direct:
    """ASGI, around the application's own handler of requests."""

    def __init__(self, app: Litestar, answer_error: AnswerError, routes: Iterable[tuple[str, str]] = DIRECT) -> None:
        """`answer_error` says what the framework would answer to an exception. Raises ValueError for a route whose
        handler needs more of the framework than a request and its body, LookupError for one that there is not.
        """
        self._app = app.asgi_handler
        self._ways: dict[tuple[str, str], ASGIApp] = {}
        for method, path in routes:
            way = _Answered(_Way(_handler(app, method, path)), answer_error)  # repeats.py keeps refusals, too
            self._ways[method, path] = _Answered(Guard(Repeats(way)), answer_error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = None
        if scope["type"] == ScopeType.HTTP:
            way = self._ways.get((scope["method"], scope["path"]))
        if way is None or not _PLAIN_HOST.fullmatch(request_headers(scope).get(b"host", b"")):
            await self._app(scope, receive, send)
            return
        scope["path_template"] = scope["path"]
        await way(scope, receive, send)


class _Answered:
    """Every exception has an answer."""

    def __init__(self, app: ASGIApp, answer_error: AnswerError) -> None:
        self._app, self._answer_error = app, answer_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - what nobody expected is logged by who answers it
            request = GatewayRequest(scope, receive, send)
            answer = self._answer_error(request, error).to_asgi_response(None, request)
            await answer(scope, receive, send)


class _Way:
    """From a request that may come in to what its handler says."""

    def __init__(self, handler: HTTPRouteHandler) -> None:
        assert handler.parsed_data_field is not None, "it takes `data`"
        self._call, self._kind = handler.fn, handler.parsed_data_field.annotation
        self._status = handler.status_code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = GatewayRequest(scope, receive, send)
        answer = await self._call(request=request, data=await request.decoded(self._kind))
        await written(answer, self._status)(scope, receive, send)


def _handler(app: Litestar, method: str, path: str) -> HTTPRouteHandler:
    for route in app.routes:
        if isinstance(route, HTTPRoute) and route.path == path:
            for handler in route.route_handlers:
                if method in handler.http_methods:
                    if set(handler.parsed_fn_signature.parameters) != _TAKEN:
                        raise ValueError(f"{method} {path} takes more than a request and its body")
                    return handler
    raise LookupError(f"{method} {path} is no route")
