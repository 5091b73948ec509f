"""The outermost layer, plain ASGI: what holds for every request, whatever it asks for.

Request id, the client's address, security headers, CORS by exact origin, a bound on the body while it streams in, a
bound on time, metrics, and msgpack answers for who asks for them. It knows no route, but whose bodies may be larger.
"""

import itertools
import re
import secrets
from http import HTTPStatus
from time import perf_counter, time_ns
from typing import Any, Final

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from engine.views import Fault
from gateway.addresses import Proxies
from gateway.deadlines import Deadlines
from gateway.errors import GatewayCode, Problem
from gateway.limits import Drawn
from gateway.metrics import GatewayMetrics
from gateway.ports import Spans, Stages, Traces
from gateway.settings import GatewaySettings

_log = structlog.get_logger(__name__)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_READINGS: Final = frozenset({"/api/v1/readings", "/api/v1/readings/ocmf"})
# Few, because the server looks at each of them twice: what only documents need comes with the documents.
_SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
CLOSED: Final = (  # what all answers carry but documents, which have a policy of their own
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
)
_CORS_EXPOSED: Final = (
    b"access-control-expose-headers",
    b"X-Request-Id, RateLimit, RateLimit-Policy, Retry-After, X-Projection-Lag, Idempotent-Replayed",
)
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
    (b"access-control-allow-headers", b"Authorization, X-API-Key, Content-Type, Idempotency-Key, X-Request-Id"),
    (b"access-control-max-age", b"600"),
)
_STATE: Final = "wattbook.visit"


class Visit:
    """What the layers know of one request beside its scope, from its arrival to its answer."""

    __slots__ = (
        "answer_headers",
        "answered",
        "asked",
        "authenticating",
        "began",
        "document",
        "drawn",
        "headers",
        "order",
        "request_id",
    )

    def __init__(self, request_id: str, headers: dict[bytes, bytes]) -> None:
        self.request_id = request_id
        self.headers = headers  # the request's, by lower-case name; of one that is repeated, the last
        self.answer_headers: list[tuple[bytes, bytes]] = []
        self.document: tuple[tuple[bytes, bytes], ...] = CLOSED
        self.drawn: Drawn | None = None  # the limit that the request counts against
        # instants (seconds of perf_counter) on an order's way, for the histograms of its stages
        self.began = perf_counter()
        self.authenticating = self.asked = self.answered = 0.0
        self.order: tuple[int, int, int] | None = None  # market, order, sequence, once the market has answered


def visit_of(scope: Scope) -> Visit:
    visit: Visit = scope["state"][_STATE]
    return visit


def answer_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Headers that the answer to this request will carry; add to it at any time before the answer starts."""
    return visit_of(scope).answer_headers


def request_headers(scope: Scope) -> dict[bytes, bytes]:
    """The request's headers by lower-case name; of one that is repeated, the last."""
    return visit_of(scope).headers


def request_id_of(scope: Scope) -> str:
    return visit_of(scope).request_id


def open_document(scope: Scope, policy: bytes) -> None:
    """This answer is a page that a browser shows: with what it may load instead of nothing at all."""
    visit_of(scope).document = (
        (b"content-security-policy", policy),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"permissions-policy", b"interest-cohort=()"),
    )


def security_headers(settings: GatewaySettings) -> tuple[tuple[bytes, bytes], ...]:
    """What every answer carries."""
    if not settings.hsts_seconds:
        return _SECURITY
    return (*_SECURITY, (b"strict-transport-security", f"max-age={settings.hsts_seconds}".encode()))


class RequestIds:
    """Ids for requests that bring none: unique here, and hardly the same elsewhere."""

    def __init__(self) -> None:
        self._ids = map(f"{secrets.token_hex(4)}-{{:x}}".format, itertools.count(1))

    def next(self) -> str:
        return next(self._ids)


class Edge:
    def __init__(
        self,
        app: ASGIApp,
        settings: GatewaySettings,
        metrics: GatewayMetrics,
        stages: Stages,
        traces: Traces | None = None,
        spans: Spans | None = None,
    ) -> None:
        self._app, self._settings, self._metrics, self._stages = app, settings, metrics, stages
        self._traces, self._spans = traces, spans
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._always = security_headers(settings) + (((b"vary", b"Origin"),) if self._origins else ())
        self._proxies = Proxies(settings.trusted_proxies) if settings.trusted_proxies else None
        self._ids = RequestIds()
        self._deadlines = Deadlines(settings.request_seconds_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._proxies is not None and (peer := scope.get("client")) is not None:
            scope["client"] = (self._proxies.client(peer[0], scope["headers"]), peer[1])
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id")
        if given is None or not _REQUEST_ID.fullmatch(request_id := given.decode("latin-1")):
            request_id = self._ids.next()
        bind_contextvars(request_id=request_id)  # each request has a context of its own
        visit = scope["state"][_STATE] = Visit(request_id, headers)
        visit.answer_headers += ((b"x-request-id", request_id.encode()), *self._always)
        is_ours = self._origins and headers.get(b"origin") in self._origins
        if is_ours:
            visit.answer_headers += ((b"access-control-allow-origin", headers[b"origin"]), _CORS_EXPOSED)
        answer = _Answer(scope, visit, send)
        begun = None
        if self._spans is not None:
            parent = headers.get(b"traceparent", b"").decode("latin-1")
            begun = self._spans.begin(request_id, scope["method"], parent)
        try:
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await answer.empty(HTTPStatus.NO_CONTENT, _PREFLIGHT if is_ours else ())
            else:
                await self._bounded(scope, _Body(receive, visit, self._bytes_max(scope)), answer)
        finally:
            ended, route = perf_counter(), scope.get("path_template") or "unmatched"
            self._metrics.observe(route, scope["method"], answer.status, ended - visit.began)
            if visit.answered:
                self._keep_times(visit, ended)
            if self._spans is not None:
                stages = _stages(visit, ended) if visit.answered else ()
                self._spans.end(begun, route, answer.status, visit.order, stages)

    def _keep_times(self, visit: Visit, ended: float) -> None:
        authenticate, read, market, answer = _times(visit, ended)
        self._stages.authenticate(authenticate)
        self._stages.parse(read)
        self._stages.answer(answer)
        if self._traces is not None and visit.order is not None:
            came_us = time_ns() // 1_000 - int((ended - visit.began) * 1_000_000)
            self._traces.keep(visit.request_id, came_us, visit.order, authenticate, read, market, answer)

    def _bytes_max(self, scope: HTTPScope) -> int:
        settings = self._settings
        return settings.readings_bytes_max if scope["path"] in _READINGS else settings.body_bytes_max

    async def _bounded(self, scope: HTTPScope, body: "_Body", answer: "_Answer") -> None:
        """Run the request within its time and size; whatever goes wrong still gets an answer."""
        try:
            body.check_announced()
            with self._deadlines.begin():
                await self._app(scope, body.receive, answer.send)
        except TimeoutError:
            _log.warning("request timed out", request_id=request_id_of(scope), path=scope["path"])
            await answer.problem(_late(scope["method"], body))
        except Problem as problem:
            await answer.problem(problem)
        except Exception:  # noqa: BLE001 - the last place before the wire: it is logged, and answered
            _log.exception("request failed", request_id=request_id_of(scope), path=scope["path"])
            await answer.problem(Problem(GatewayCode.INTERNAL))


def _times(visit: Visit, ended: float) -> tuple[float, float, float, float]:
    """An order's stages in the gateway, one after the other: authenticate, read, market, answer."""
    read = visit.asked - visit.began - visit.authenticating
    return visit.authenticating, read, visit.answered - visit.asked, ended - visit.answered


def _stages(visit: Visit, ended: float) -> list[tuple[str, float]]:
    return list(zip(("authenticate", "read", "market", "answer"), _times(visit, ended), strict=True))


def _late(method: str, body: "_Body") -> Problem:
    if body.is_awaited:
        return body.refused(GatewayCode.REQUEST_TIMEOUT)
    return Problem(Fault.UNAVAILABLE if method in READS else Fault.OUTCOME_UNKNOWN, "the request took too long")


class _Body:
    """The request's body, cut off when it grows too large, whatever its length was announced to be."""

    def __init__(self, receive: Receive, visit: Visit, bytes_max: int) -> None:
        self._receive, self._visit, self._bytes_max, self._bytes = receive, visit, bytes_max, 0
        self.is_awaited = False  # somebody reads it, and it has not ended

    def check_announced(self) -> None:
        announced = self._visit.headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > self._bytes_max:
            raise self._too_large()

    async def receive(self) -> Any:
        self.is_awaited = True
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            if self._bytes > self._bytes_max:
                raise self._too_large()
            self.is_awaited = bool(message.get("more_body", False))
        return message

    def _too_large(self) -> Problem:
        return self.refused(GatewayCode.PAYLOAD_TOO_LARGE, f"a body has at most {self._bytes_max} bytes")

    def refused(self, code: GatewayCode, detail: str = "") -> Problem:
        """The connection ends with this answer, because what follows on it is the rest of the body."""
        self._visit.answer_headers.append((b"connection", b"close"))
        return Problem(code, detail)


class _Answer:
    """The way out: adds the headers, remembers the status, and writes msgpack when that is what the caller reads."""

    def __init__(self, scope: HTTPScope, visit: Visit, send: Send) -> None:
        self.status = 0
        self._scope, self._visit, self._send = scope, visit, send
        accept = visit.headers.get(b"accept", b"")
        self._msgpack = b"application/msgpack" in accept or b"application/x-msgpack" in accept
        self._start: Any = None  # held back until the body is known, when it is to be msgpack
        self._held = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            visit = self._visit
            self.status = message["status"]
            raw = message["headers"] = [*message["headers"], *visit.answer_headers, *visit.document]
            if visit.drawn is not None:
                raw += visit.drawn.headers()
            if self._msgpack and _is_json(raw):
                self._start = message
                return
        elif message["type"] == "http.response.body" and self._start is not None:
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_msgpack()
            return
        await self._send(message)

    async def empty(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def problem(self, problem: Problem) -> None:
        """Nothing can be said any more when the answer has begun; the connection's end then says it."""
        if self.status:
            return
        body = msgspec.json.encode(problem.body(self._visit.request_id))
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
        if problem.retry_after_seconds > 0:
            headers.append((b"retry-after", str(problem.retry_after_whole_seconds).encode()))
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send_msgpack(self) -> None:
        body = msgspec.msgpack.encode(msgspec.json.decode(self._held)) if self._held else b""
        headers = [
            pair for pair in self._start["headers"] if pair[0].lower() not in (b"content-type", b"content-length")
        ]
        headers += [(b"content-type", b"application/msgpack"), (b"content-length", str(len(body)).encode())]
        self._start["headers"] = headers
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _is_json(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name.lower() == b"content-type" and (b"application/json" in value or b"problem+json" in value)
        for name, value in headers
    )
