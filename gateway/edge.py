"""The outermost layer, plain ASGI: what holds for every request, whatever it asks for.

Request id, security headers, CORS by exact origin, a bound on the body while it streams in, a bound on time, metrics,
and msgpack answers for who asks for them. It knows no route.
"""

import asyncio
import itertools
import re
import secrets
from time import perf_counter
from typing import Any, Final

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from engine.views import Fault
from gateway.errors import GatewayCode, Problem
from gateway.metrics import GatewayMetrics
from gateway.ports import Stages
from gateway.settings import GatewaySettings

_log = structlog.get_logger(__name__)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_READINGS: Final = frozenset({"/api/v1/readings", "/api/v1/readings/ocmf"})
# Few, because the server looks at each of them twice: what only documents need comes with the documents.
_SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)
_CLOSED: Final = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
)
_CORS_METHODS: Final = b"GET, POST, PUT, PATCH, DELETE"
_CORS_HEADERS: Final = b"Authorization, X-API-Key, Content-Type, Idempotency-Key, X-Request-Id"
_CORS_EXPOSED: Final = b"X-Request-Id, RateLimit, RateLimit-Policy, Retry-After, X-Projection-Lag"
_HEADERS_KEY: Final = "wattbook.answer_headers"
_REQUEST_ID_KEY: Final = "wattbook.request_id"
_REQUEST_HEADERS_KEY: Final = "wattbook.request_headers"
_MARKS_KEY: Final = "wattbook.marks"
_DOCUMENT_KEY: Final = "wattbook.document_headers"


def answer_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Headers that the answer to this request will carry; add to it at any time before the answer starts."""
    headers: list[tuple[bytes, bytes]] = scope.setdefault(_HEADERS_KEY, [])  # type: ignore[typeddict-item]
    return headers


def request_headers(scope: Scope) -> dict[bytes, bytes]:
    """The request's headers by lower-case name; of one that is repeated, the last."""
    headers: dict[bytes, bytes] = scope.get(_REQUEST_HEADERS_KEY, {})  # type: ignore[assignment]
    return headers


def open_document(scope: Scope, policy: bytes) -> None:
    """This answer is a page that a browser shows: with what it may load instead of nothing at all."""
    scope[_DOCUMENT_KEY] = (  # type: ignore[typeddict-unknown-key]
        (b"content-security-policy", policy),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"permissions-policy", b"interest-cohort=()"),
    )


def request_id_of(scope: Scope) -> str:
    return str(scope.get(_REQUEST_ID_KEY, ""))


class Marks:
    """The instants (seconds of perf_counter) on an order's way, for the histograms of its stages."""

    __slots__ = ("answered", "asked", "authenticating", "began")

    def __init__(self, began: float) -> None:
        self.began = began
        self.authenticating = self.asked = self.answered = 0.0


def marks_of(scope: Scope) -> Marks:
    marks: Marks = scope[_MARKS_KEY]  # type: ignore[typeddict-item]
    return marks


class Edge:
    def __init__(self, app: ASGIApp, settings: GatewaySettings, metrics: GatewayMetrics, stages: Stages) -> None:
        self._app, self._settings, self._metrics, self._stages = app, settings, metrics, stages
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._ids = map(f"{secrets.token_hex(4)}-{{:x}}".format, itertools.count(1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id")
        if given is None or not _REQUEST_ID.fullmatch(request_id := given.decode("latin-1")):
            request_id = next(self._ids)
        scope[_REQUEST_ID_KEY] = request_id  # type: ignore[typeddict-unknown-key]
        scope[_REQUEST_HEADERS_KEY] = headers  # type: ignore[typeddict-unknown-key]
        origin = headers.get(b"origin", b"")
        answer = _Answer(scope, send, self._outgoing(scope, request_id, origin), headers.get(b"accept", b""))
        marks = scope[_MARKS_KEY] = Marks(perf_counter())  # type: ignore[typeddict-unknown-key]
        try:
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await answer.empty(204)
            else:
                await self._bounded(scope, _Body(receive, headers, self._bytes_max(scope)), answer)
        finally:
            ended = perf_counter()
            self._metrics.observe(
                scope.get("path_template") or "unmatched", scope["method"], answer.status, ended - marks.began
            )
            if marks.answered:
                self._stages.authenticate(marks.authenticating)
                self._stages.parse(marks.asked - marks.began - marks.authenticating)
                self._stages.answer(ended - marks.answered)

    def _bytes_max(self, scope: HTTPScope) -> int:
        settings = self._settings
        return settings.readings_bytes_max if scope["path"] in _READINGS else settings.body_bytes_max

    def _outgoing(self, scope: HTTPScope, request_id: str, origin: bytes) -> list[tuple[bytes, bytes]]:
        outgoing = answer_headers(scope)
        outgoing.append((b"x-request-id", request_id.encode()))
        outgoing.extend(_SECURITY)
        if self._origins:
            outgoing.append((b"vary", b"Origin"))
            if origin in self._origins:
                outgoing.extend(
                    (
                        (b"access-control-allow-origin", origin),
                        (b"access-control-allow-methods", _CORS_METHODS),
                        (b"access-control-allow-headers", _CORS_HEADERS),
                        (b"access-control-expose-headers", _CORS_EXPOSED),
                        (b"access-control-max-age", b"600"),
                    )
                )
        else:
            outgoing.append((b"cross-origin-resource-policy", b"same-origin"))
        return outgoing

    async def _bounded(self, scope: Scope, body: "_Body", answer: "_Answer") -> None:
        """Run the request within its time and size; whatever goes wrong still gets an answer."""
        request_id = request_id_of(scope)
        try:
            body.check_announced()
            async with asyncio.timeout(self._settings.request_seconds_max):
                await self._app(scope, body.receive, answer.send)
        except TimeoutError:
            read = answer.method in _READS
            _log.warning("request timed out", request_id=request_id, path=scope["path"])
            await answer.problem(
                Problem(Fault.UNAVAILABLE if read else Fault.OUTCOME_UNKNOWN, "the request took too long"), request_id
            )
        except Problem as problem:
            await answer.problem(problem, request_id)
        except Exception:  # noqa: BLE001 - the last place before the wire: it is logged, and answered
            _log.exception("request failed", request_id=request_id, path=scope["path"])
            await answer.problem(Problem(GatewayCode.INTERNAL), request_id)


class _Body:
    """The request's body, cut off when it grows too large, whatever its length was announced to be."""

    def __init__(self, receive: Receive, headers: dict[bytes, bytes], bytes_max: int) -> None:
        self._receive, self._headers, self._bytes_max, self._bytes = receive, headers, bytes_max, 0

    def check_announced(self) -> None:
        announced = self._headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._bytes_max:
            raise self._too_large()

    async def receive(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            if self._bytes > self._bytes_max:
                raise self._too_large()
        return message

    def _too_large(self) -> Problem:
        return Problem(GatewayCode.PAYLOAD_TOO_LARGE, f"a body has at most {self._bytes_max} bytes")


class _Answer:
    """The way out: adds the headers, remembers the status, and writes msgpack when that is what the caller reads."""

    def __init__(self, scope: HTTPScope, send: Send, headers: list[tuple[bytes, bytes]], accept: bytes) -> None:
        self.status = 0
        self.method = scope["method"]
        self._scope, self._send, self._headers = scope, send, headers
        self._msgpack = b"application/msgpack" in accept or b"application/x-msgpack" in accept
        self._start: Any = None  # held back until the body is known, when it is to be msgpack
        self._held = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            raw = message["headers"] = [
                *message["headers"],
                *self._headers,
                *self._scope.get(_DOCUMENT_KEY, _CLOSED),  # type: ignore[misc]
            ]
            if self._msgpack and _is_json(raw):
                self._start = message
                return
        elif message["type"] == "http.response.body" and self._start is not None:
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_msgpack()
            return
        await self._send(message)

    async def empty(self, status: int) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": []})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def problem(self, problem: Problem, request_id: str) -> None:
        """Nothing can be said any more when the answer has begun; the connection's end then says it."""
        if self.status:
            return
        body = msgspec.json.encode(problem.body(request_id))
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
