"""A small HTTP/1.1 client for load: one request at a time on each connection, little work per request.

A general client spends more on a request than the exchange does; on shared cores that would measure the client. Bodies
and answers are bytes; nothing is retried here.
"""

import asyncio
from collections import deque
from typing import Any, cast

import httptools
import msgspec

_REQUEST_SECONDS_MAX = 20.0


class ConnectionBroken(Exception):
    """The connection ended before the answer: whether the request was done is not known."""


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class HttpConnection(asyncio.Protocol):
    """One keep-alive connection. `request` must not be called again before it has returned."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._parser: Any = None
        self._body: list[bytes] = []

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def request(self, data: bytes) -> Answer:
        """Send one whole request; return its answer. Raises ConnectionBroken, TimeoutError."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionBroken
        assert self._waiting is None, "one request at a time"
        self._waiting = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body = []
        self._transport.write(data)
        try:
            async with asyncio.timeout(_REQUEST_SECONDS_MAX):
                return await self._waiting
        except BaseException:
            self.close()
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol and httptools' callbacks ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, AttributeError):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionBroken())

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(self._parser.get_status_code(), b"".join(self._body)))


class HttpPool:
    """At most `size` connections to one host; whoever asks when all are busy waits his turn."""

    def __init__(self, host: str, port: int, size: int) -> None:
        self._host, self._port = host, port
        self._idle: deque[HttpConnection] = deque()
        self._room = asyncio.Semaphore(size)

    async def request(self, data: bytes) -> Answer:
        """Raises ConnectionBroken when the outcome is unknown, ConnectionError when nothing was sent, TimeoutError."""
        async with self._room:
            connection = await self._connection()
            answer = await connection.request(data)
            self._idle.append(connection)
            return answer

    async def _connection(self) -> HttpConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(HttpConnection, self._host, self._port)
        return connection

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


def request_bytes(method: str, path: str, host: str, token: str = "", body: bytes = b"") -> bytes:
    """One HTTP/1.1 request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body
