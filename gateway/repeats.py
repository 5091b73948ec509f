"""`Idempotency-Key` on writes: the same request of the same caller within a day gets its first answer again.

A key is claimed before the write begins and stays claimed when no answer was stored, because a process died under it:
then nobody knows, and nothing is done a second time. Refusals that a repeat may cure leave the key free.

    free ──claim──> running ──answer──> answered        repeat: the first answer, `Idempotent-Replayed: true`
      ^                │ └──no answer in time──> unknown    repeat: OUTCOME_UNKNOWN
      └──nothing done──┘                         (while running: CONFLICT with `Retry-After`)
"""

import hashlib
from typing import Any, Final

import msgspec
import structlog
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from msgspec import Struct

from engine.messages import RejectCode
from engine.records import FirstAnswer, TooManyFirstAnswers
from engine.units import SECOND_US
from engine.views import Fault
from gateway.auth.callers import Caller
from gateway.context import Gateway
from gateway.edge import READS, visit_of
from gateway.errors import GatewayCode, Problem, problem_of
from gateway.requests import idempotency_key

_log = structlog.get_logger(__name__)
KEPT_SECONDS: Final = 86_400
ANSWER_BYTES_MAX: Final = 2**20
_LATE_SECONDS: Final = 5.0  # beyond a request's time: then it runs no more
_RETRY_SECONDS: Final = 1.0
_FULL_RETRY_SECONDS: Final = 3_600.0

# Their journal and their ledger know the key themselves, which holds across every crash.
JOURNALED: Final = frozenset({("POST", "/api/v1/orders"), ("POST", "/api/v1/deposits")})
# What they are asked or what they answer is secret, and secrets are not kept: the header means nothing here.
SECRET: Final = frozenset(
    {
        ("POST", "/api/v1/auth/register"),
        ("POST", "/api/v1/auth/login"),
        ("POST", "/api/v1/auth/refresh"),
        ("POST", "/api/v1/auth/logout"),
        ("POST", "/api/v1/users/me/password"),
        ("POST", "/api/v1/users/me/api-keys"),
        ("POST", "/api/v1/admin/ami-keys"),
    }
)


class _Refused(Struct):
    code: str
    retryable: bool


_refused = msgspec.json.Decoder(_Refused).decode


class Repeats:
    """ASGI middleware between the guard, which knows the caller, and the handlers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = str(scope.get("method", "GET"))
        caller: Caller | None = scope.get("user")
        if method in READS or caller is None or b"idempotency-key" not in visit_of(scope).headers:
            await self._app(scope, receive, send)
            return
        route = method, scope["path_template"]
        if route in SECRET or route in JOURNALED:
            await self._app(scope, receive, send)
            return
        request = _Keyed(scope["app"].state["gateway"], caller.user_id, idempotency_key(visit_of(scope).headers))
        body = await _whole(receive)
        first = await request.claim(_fingerprint(scope, body))
        if first is None:
            answer = _Held()
            await self._app(scope, _again(body, receive), answer.hold)
            await request.settle(answer)
        else:
            answer = request.first_answer(first)
            visit_of(scope).answer_headers.append((b"idempotent-replayed", b"true"))
        for message in answer.messages:
            await send(message)


class _Keyed:
    """One write with a key, from its claim to what is stored of it."""

    def __init__(self, gateway: Gateway, caller_id: int, key: str) -> None:
        self._gateway, self._caller_id, self._key = gateway, caller_id, key
        self._fingerprint, self._began_us = b"", 0

    async def claim(self, fingerprint: bytes) -> FirstAnswer | None:
        """None: the write may begin. Raises UNAVAILABLE or RATE_LIMITED: it did not."""
        self._fingerprint, self._began_us = fingerprint, self._gateway.clock()
        expires_us = self._began_us + KEPT_SECONDS * SECOND_US
        try:
            return await self._gateway.first_answers.claim(
                self._caller_id, self._key, fingerprint, self._began_us, expires_us
            )
        except TooManyFirstAnswers:
            detail = "too many Idempotency-Keys within a day: go on without"
            raise Problem(GatewayCode.RATE_LIMITED, detail, retry_after_seconds=_FULL_RETRY_SECONDS) from None
        except Exception as error:
            raise problem_of(error, self._gateway.outages, read=True) from error

    def first_answer(self, first: FirstAnswer) -> "_Held":
        """Raises CONFLICT or OUTCOME_UNKNOWN."""
        if first.fingerprint != self._fingerprint:
            raise Problem(RejectCode.CONFLICT, "the Idempotency-Key belongs to another request")
        if first.status and first.body is not None:
            return _Held.stored(first.status, first.media_type, first.body)
        if first.status:
            raise Problem(RejectCode.CONFLICT, "this has been answered, and the answer was too large to be kept")
        running_us = int((self._gateway.settings.request_seconds_max + _LATE_SECONDS) * SECOND_US)
        if self._began_us < first.began_us + running_us:
            detail = "the first request with this Idempotency-Key is still running"
            raise Problem(RejectCode.CONFLICT, detail, retry_after_seconds=_RETRY_SECONDS)
        detail = "the first request with this Idempotency-Key found no end: look what happened, then use another key"
        raise Problem(Fault.OUTCOME_UNKNOWN, detail)

    async def settle(self, answer: "_Held") -> None:
        """Store the answer, or free the key when nothing happened."""
        first_answers, status = self._gateway.first_answers, answer.status
        is_cured_by_repeating = False
        if status >= 400:
            refused = _refused(answer.body)
            if refused.code in (Fault.OUTCOME_UNKNOWN.name, GatewayCode.INTERNAL.name):
                return
            is_cured_by_repeating = refused.retryable
        try:
            if is_cured_by_repeating:
                await first_answers.release(self._caller_id, self._key, self._began_us)
            else:
                body = answer.body if len(answer.body) <= ANSWER_BYTES_MAX else None
                await first_answers.keep(self._caller_id, self._key, self._began_us, status, answer.media_type, body)
        except Exception as error:  # noqa: BLE001 - it was done all the same; a repeat will hear OUTCOME_UNKNOWN
            _log.warning("first answer not kept", error=repr(error))


class _Held:
    """An answer of the application, held back until it is stored."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.status, self.media_type, self._body = 0, "", bytearray()

    @classmethod
    def stored(cls, status: int, media_type: str, body: bytes) -> "_Held":
        held = cls()
        headers = [(b"content-length", str(len(body)).encode())] if status != 204 else []
        if body:
            headers.append((b"content-type", media_type.encode()))
        held.messages = [
            {"type": "http.response.start", "status": status, "headers": headers},
            {"type": "http.response.body", "body": body, "more_body": False},
        ]
        return held

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    async def hold(self, message: Message) -> None:
        self.messages.append(message)
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.media_type = dict(message["headers"]).get(b"content-type", b"").decode("latin-1")
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")


async def _whole(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(RejectCode.VALIDATION_FAILED, "the body ended early")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, then what `receive` says."""
    unread = True

    async def replay() -> Any:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


def _fingerprint(scope: Scope, body: bytes) -> bytes:
    content_type = visit_of(scope).headers.get(b"content-type", b"")
    head = (str(scope.get("method")).encode(), scope["raw_path"], scope["query_string"], content_type)
    digest = hashlib.sha256()
    for part in (*head, body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
