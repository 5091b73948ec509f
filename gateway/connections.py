"""Connections: how many there may be, and how long each may take; what the server itself refuses, and how.

uvicorn bounds neither the time until a request is complete, nor the bytes of its head, nor who has how many
connections. So: each connection notes by when it must have moved on, and one round a second ends those that have not.

    opened, idle       until KEEP_ALIVE_SECONDS      a request's first byte
    head               until head_seconds_max        the end of its headers
    body               until request_seconds_max     its end, and LATE_SECONDS for the edge, which answers first
    answer             no bound here: the edge's
    closing            until LINGER_SECONDS          the other side has read all; then it is cut off
"""

import asyncio
from typing import Any, Final, cast

import msgspec
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from engine.messages import RejectCode
from engine.views import Fault
from gateway.addresses import Proxies, subscriber_of
from gateway.edge import CLOSED, RequestIds, security_headers
from gateway.errors import GatewayCode, Problem
from gateway.settings import GatewaySettings

KEEP_ALIVE_SECONDS: Final = 75
LINGER_SECONDS: Final = 10.0
LATE_SECONDS: Final = 2.0
ROUND_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 5.0  # when to come again after being refused a connection
_NEVER: Final = float("inf")
_log = structlog.get_logger(__name__)


class Connections:
    """All connections of one server, HTTP and WebSocket."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self._proxies = Proxies(settings.trusted_proxies)
        self._security = (*security_headers(settings), *CLOSED)
        self._ids = RequestIds()
        self._open: dict[asyncio.BaseTransport, _Open] = {}
        self._by_address: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def of_address(self, host: str) -> int:
        return self._by_address.get(subscriber_of(host), 0)

    def admit(self, transport: asyncio.Transport) -> "_Open":
        """Raises OVERLOADED or RATE_LIMITED, and counts nothing, when there are too many."""
        peer = transport.get_extra_info("peername")
        host = peer[0] if isinstance(peer, tuple) else ""
        address = "" if not host or self._proxies.trusts(host) else subscriber_of(host)
        if len(self._open) >= self.settings.connections_max:
            raise Problem(Fault.OVERLOADED, "too many connections", retry_after_seconds=RETRY_SECONDS)
        if address and self._by_address.get(address, 0) >= self.settings.connections_per_address_max:
            raise Problem(
                GatewayCode.RATE_LIMITED, "too many connections of one address", retry_after_seconds=RETRY_SECONDS
            )
        if address:
            self._by_address[address] = self._by_address.get(address, 0) + 1
        opened = self._open[transport] = _Open(transport, address, _now() + KEEP_ALIVE_SECONDS)
        return opened

    def known(self, transport: asyncio.BaseTransport) -> "_Open":
        return self._open[transport]

    def forget(self, transport: asyncio.BaseTransport) -> None:
        """The connection is gone."""
        opened = self._open.pop(transport, None)
        if opened is None or not opened.address:
            return
        left = self._by_address[opened.address] - 1
        if left:
            self._by_address[opened.address] = left
        else:
            del self._by_address[opened.address]

    async def watch(self) -> None:
        """Runs until cancelled by its owner."""
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            self.end_overdue()

    def end_overdue(self) -> None:
        now = _now()
        for opened in list(self._open.values()):
            if opened.transport.is_closing():
                if opened.closed_by == _NEVER:
                    opened.closed_by = now + LINGER_SECONDS
                elif now > opened.closed_by:
                    opened.transport.abort()
            elif now > opened.due:
                if opened.in_request:
                    self.refuse(opened.transport, Problem(GatewayCode.REQUEST_TIMEOUT))
                else:
                    opened.transport.close()

    def refuse(self, transport: asyncio.Transport, problem: Problem) -> None:
        """Answer, outside of any request that the application could answer, and close."""
        request_id = self._ids.next()
        body = msgspec.json.encode(problem.body(request_id))
        headers = [
            *self._security,
            (b"x-request-id", request_id.encode()),
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if problem.retry_after_seconds > 0:
            headers.append((b"retry-after", str(problem.retry_after_whole_seconds).encode()))
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        _log.info("connection refused", code=problem.code.name, request_id=request_id)
        transport.write(STATUS_LINE[problem.status] + head + b"\r\n" + body)
        transport.close()


class _Open:
    """One connection, and by when (seconds of the loop's clock) it must have moved on."""

    __slots__ = ("address", "closed_by", "due", "in_request", "transport")

    def __init__(self, transport: asyncio.Transport, address: str, due: float) -> None:
        self.transport, self.address, self.due = transport, address, due
        self.in_request = False
        self.closed_by = _NEVER


class Config(uvicorn.Config):
    """uvicorn hands its configuration to each protocol: so they find the connections."""

    connections: Connections


class Http(HttpToolsProtocol):
    """uvicorn's HTTP, with each answer in one write and every request within bounds.

    It writes head and body apart, which is two system calls, two packets, and a client that wakes up twice.
    """

    _opened: _Open | None = None  # None: refused
    _bytes = 0  # of the request that is being read
    _bytes_max: float = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        gathered = _Gathered(transport)
        super().connection_made(cast("asyncio.Transport", gathered))
        self._connections = cast("Config", self.config).connections
        try:
            self._opened = self._connections.admit(cast("asyncio.Transport", gathered))
        except Problem as problem:
            self._connections.refuse(self.transport, problem)
            return
        self._bytes_max = self._connections.settings.head_bytes_max

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.forget(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._opened is None:
            return
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > self._bytes_max and not self.transport.is_closing():
            self._connections.refuse(self.transport, Problem(GatewayCode.HEAD_TOO_LARGE))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        settings, opened = self._connections.settings, self._opened
        assert opened is not None, "refused connections are not read"
        self._bytes, self._bytes_max = 0, settings.head_bytes_max
        opened.due, opened.in_request = self.loop.time() + settings.head_seconds_max, True

    def on_headers_complete(self) -> None:
        settings, opened = self._connections.settings, self._opened
        assert opened is not None
        # twice the body: chunks have heads, and trailers; who sends more than that is past the edge's answer
        self._bytes_max = settings.head_bytes_max + 2 * max(settings.body_bytes_max, settings.readings_bytes_max)
        opened.due = self.loop.time() + settings.request_seconds_max + LATE_SECONDS
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        assert self._opened is not None
        self._bytes, self._bytes_max = 0, self._connections.settings.head_bytes_max
        is_answered = self.cycle is None or self.cycle.response_complete  # a refused body comes to its end all the same
        self._opened.due = self.loop.time() + KEEP_ALIVE_SECONDS if is_answered else _NEVER
        self._opened.in_request = False

    def on_response_complete(self) -> None:
        cast("_Gathered", self.transport).flush()  # in this turn of the loop, with all answers that end in it
        super().on_response_complete()
        if self._opened is not None and not self._opened.in_request and not self.pipeline:
            self._opened.due = self.loop.time() + KEEP_ALIVE_SECONDS

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - what was wrong is for the log
        if not self.transport.is_closing():
            self._connections.refuse(
                self.transport, Problem(RejectCode.VALIDATION_FAILED, "this is no well formed HTTP request")
            )


class WebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which pings and bounds messages; the connection stays counted while it lives."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections = cast("Config", self.config).connections
        opened = self._connections.known(transport)
        opened.due, opened.in_request = _NEVER, False  # from here on pings tell whether it lives

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.forget(self.transport)
        super().connection_lost(exc)


class _Gathered:
    """A transport that writes once per turn of the loop, or when told; all else goes straight through."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._call_soon = asyncio.get_running_loop().call_soon
        self._out: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._out:
            self._call_soon(self.flush)
        self._out.append(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        out, self._out = self._out, []
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _now() -> float:
    return asyncio.get_running_loop().time()
