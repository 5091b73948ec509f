"""The request as handlers see it: bodies decoded strictly, straight into their type, from JSON or msgpack.

Litestar would decode JSON into dictionaries and convert leniently ("1" for 1); one strict pass is faster and refuses.
"""

import base64
import binascii
import re
from collections.abc import Awaitable, Mapping
from functools import lru_cache
from time import perf_counter
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from litestar import Request, Response
from litestar.datastructures import State
from litestar.params import QueryParameter
from litestar.types import Empty, Receive, Scope, Send
from msgspec import Struct
from structlog.contextvars import bind_contextvars

from engine.audit import Origin
from engine.market import MarketSpec
from engine.messages import RejectCode
from engine.views import OrderAnswer
from gateway.auth.callers import Caller
from gateway.context import Gateway
from gateway.edge import answer_headers, request_headers, request_id_of, visit_of
from gateway.errors import GatewayCode, Problem, invalid

_T = TypeVar("_T")
_AT: Final = re.compile(r" - at `\$(?:\.|\[\.\.\.\]\.?)?([^`]*)`$")
_NAMED: Final = re.compile(r"field `([^`]+)`")
_encode_json: Final = msgspec.json.Encoder().encode
_MSGPACK: Final = ("application/msgpack", "application/x-msgpack")

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000
Limit = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAX, description="how many items at most")]
Cursor = Annotated[str | None, QueryParameter(description="`next` of the page before")]


class Page(Struct, Generic[_T], frozen=True):
    """`next` is the cursor of the following page; null at the end."""

    items: list[_T]
    next: str | None = None


class GatewayRequest(Request[Caller, Any, State]):
    """`user` is the caller that the guard found; None only on routes that anyone may use."""

    __slots__ = ()

    @property
    def gateway(self) -> Gateway:
        gateway: Gateway = self.app.state["gateway"]
        return gateway

    @property
    def caller(self) -> Caller:
        caller: Caller | None = self.scope["user"]
        assert caller is not None, "the permission table lets nobody in here without a login"
        return caller

    @property
    def visitor(self) -> Caller | None:
        visitor: Caller | None = self.scope.get("user")
        return visitor

    @property
    def origin(self) -> Origin:
        """Who asks, and from where: what the audit log keeps of this request."""
        caller, client = self.visitor, self.scope.get("client")
        if caller is None:
            actor, via = "anonymous", ""
        elif caller.key_id:
            actor = f"user:{caller.user_id}" if caller.user_id > 0 else f"head-end:{caller.key_id}"
            via = f"key:{caller.key_id}"
        else:
            actor, via = f"user:{caller.user_id}", f"session:{caller.session_id}"
        return Origin(actor, via, client[0] if client else "", request_id_of(self.scope))

    @property
    def idempotency_key(self) -> str:
        """The `Idempotency-Key`, or the empty string. Raises VALIDATION_FAILED for one that is too odd to keep."""
        return idempotency_key(request_headers(self.scope))

    def add_header(self, name: bytes, value: bytes) -> None:
        answer_headers(self.scope).append((name, value))

    def mark_lag(self, complete: bool) -> bool:
        """Tell the caller that this answer may not show the newest writes yet. Returns `complete`."""
        if not complete:
            self.gateway.metrics.projection_lags.inc()
            self.add_header(b"x-projection-lag", b"1")
        return complete

    async def of_market(self, answer: Awaitable[_T]) -> _T:
        """Wait for the market's answer, which ends the stage `parse` and begins the stage `answer`."""
        visit = visit_of(self.scope)
        visit.asked = perf_counter()
        try:
            return await answer
        finally:
            visit.answered = perf_counter()

    def note_order(self, spec: MarketSpec, answer: OrderAnswer) -> None:
        """What the request was about, for who asks for its way."""
        number = answer.order.order_id
        visit_of(self.scope).order = (spec.market_id, number, answer.order.sequence)
        bind_contextvars(order_id=f"{spec.market_id}-{number}")

    async def json(self) -> Any:
        """The body as the type that the handler declares for `data`. Litestar calls this once per request."""
        field = self.route_handler.parsed_data_field
        assert field is not None, "only handlers that declare `data` read a body"
        return await self.decoded(field.annotation)

    async def decoded(self, kind: Any) -> Any:
        """The body as this type. Raises VALIDATION_FAILED with the field, or UNSUPPORTED_MEDIA_TYPE."""
        content_type = request_headers(self.scope).get(b"content-type", b"").decode("latin-1")
        return decode_body(await self.body(), content_type, kind)

    async def body(self) -> bytes:
        """The whole body; the edge bounds it."""
        if self._body is Empty:
            chunks = []
            while True:
                event: Any = await self.receive()
                if event["type"] == "http.disconnect":
                    raise Problem(RejectCode.VALIDATION_FAILED, "the body ended early")
                chunks.append(event.get("body", b""))
                if not event.get("more_body", False):
                    break
            self._body = b"".join(chunks)
        return self._body


class WireResponse(Response[Any]):
    """What handlers return, straight to JSON; Litestar's own response does much that no answer of ours needs."""

    def to_asgi_response(self, app: Any = None, request: Any = None, **_: Any) -> Any:  # noqa: ARG002
        return written(self.content, self.status_code or 200, (self.media_type or "application/json").encode())


def written(content: Any, status: int, media_type: bytes = b"application/json") -> "_Written":
    """The answer that says this: bytes as they are, None as nothing, all else as JSON."""
    if content is None:
        body = b""
    elif isinstance(content, bytes):
        body = content
    else:
        body = _encode_json(content)
    return _Written(status, body, media_type)


class _Written:
    """An answer as two ASGI messages."""

    __slots__ = ("_body", "_media_type", "_status")

    def __init__(self, status: int, body: bytes, media_type: bytes) -> None:
        self._status, self._body, self._media_type = status, body, media_type

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-length", str(len(self._body)).encode())] if self._status != 204 else []
        if self._body:
            headers.append((b"content-type", self._media_type))
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


CLIENT_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)


def idempotency_key(headers: Mapping[bytes, bytes]) -> str:
    """The empty string when there is none. Raises VALIDATION_FAILED for one that is too odd to keep."""
    key = headers.get(b"idempotency-key")
    if key is None:
        return ""
    text = key.decode("latin-1")
    if not CLIENT_ID.fullmatch(text):
        raise invalid("Idempotency-Key", "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -")
    return text


def decode_body(body: bytes, content_type: str, kind: Any) -> Any:
    """Raises VALIDATION_FAILED with the field, or UNSUPPORTED_MEDIA_TYPE."""
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        if media_type in ("", "application/json"):
            return _json_decoder(kind).decode(body)
        if media_type in _MSGPACK:
            return _msgpack_decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        raise broken(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # the last: brackets in brackets in brackets
        raise Problem(RejectCode.VALIDATION_FAILED, "the body is not well formed") from None
    raise Problem(GatewayCode.UNSUPPORTED_MEDIA_TYPE, "bodies are application/json or application/msgpack")


def convert(value: Any, kind: type[_T]) -> _T:
    """A decoded value as this type, just as strictly. Raises VALIDATION_FAILED."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise broken(error) from None


def broken(error: msgspec.ValidationError) -> Problem:
    """The field that msgspec complains about, and its complaint."""
    text = str(error)
    named, at = _NAMED.search(text), _AT.search(text)
    field = named[1] if named else (at[1] if at and at[1] else "body")
    return invalid(field, _AT.sub("", text))


@lru_cache(maxsize=256)
def _json_decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@lru_cache(maxsize=256)
def _msgpack_decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def cursor_of(*key: int) -> str:
    """An opaque cursor: the key of the last item that was shown."""
    return base64.urlsafe_b64encode("-".join(map(str, key)).encode()).rstrip(b"=").decode()


def parse_cursor(text: str | None, parts: int) -> tuple[int, ...] | None:
    """The key in a cursor; None without one. Raises VALIDATION_FAILED."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise invalid("cursor", "is none of ours") from None
    key = raw.split("-")
    if len(key) != parts or not all(part.isdigit() and len(part) <= 18 for part in key):
        raise invalid("cursor", "is none of ours")
    numbers = tuple(int(part) for part in key)
    if cursor_of(*numbers) != text:  # with zeros before, or bits to spare: we never said it so
        raise invalid("cursor", "is none of ours")
    return numbers
