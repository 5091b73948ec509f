"""A small HTTP/1.1 client for load: one request at a time on each connection, a few microseconds per request.

A general client spends more on a request than the exchange does; on shared cores that would measure the client. So
requests and answers are bytes, an answer is found by its Content-Length, and nothing is retried here. Two ways to use
it: a `Line` calls back and makes no task; an `HttpPool` is awaited.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

REQUEST_SECONDS_MAX: Final = 20.0
_HEAD_BYTES_MAX: Final = 65_536
_LENGTH: Final = b"content-length: "


class ConnectionBroken(Exception):
    """The connection ended before the answer: whether the request was done is not known."""


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Line(asyncio.Protocol):
    """One keep-alive connection. `answered(line, status, body)` is called for each whole answer, `lost(line)` once.

    `job` and `sent_ns` belong to whoever sends: what the request under way is, and when it left.
    """

    def __init__(self, answered: "Callable[[Line, int, bytes], None]", lost: "Callable[[Line], None]") -> None:
        self._answered, self._lost = answered, lost
        self._transport: asyncio.Transport | None = None
        self._partial = b""
        self.job: Any = None
        self.sent_ns = 0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> None:
        """One whole request; the answer before must have come."""
        assert self._transport is not None, "the line is lost"
        self._transport.write(request)

    def close(self) -> None:
        """Without waiting for what is under way."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def data_received(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            self._partial = data
            if len(data) > _HEAD_BYTES_MAX:
                self.close()
            return
        place = data.find(_LENGTH, 0, head_end)
        try:
            if place >= 0:
                body_end = head_end + 4 + int(data[place + len(_LENGTH) : data.find(b"\r\n", place)])
            else:
                body_end = head_end + 4 + _length(data[:head_end])
            status = int(data[9:12])
        except ValueError:
            self.close()
            return
        if len(data) < body_end:
            self._partial = data
            return
        self._partial = b""
        self._answered(self, status, data[head_end + 4 : body_end])

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._transport = None
        self._lost(self)


def _length(head: bytes) -> int:
    """The body's length by a head that does not write it as our server does. Raises ValueError when it does not say."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    if head[9:12] in (b"204", b"304"):
        return 0
    raise ValueError("an answer without a length")


class HttpPool:
    """At most `size` connections to one host; whoever asks when all are busy waits his turn."""

    def __init__(self, host: str, port: int, size: int) -> None:
        self._host, self._port = host, port
        self._idle: deque[Line] = deque()
        self._room = asyncio.Semaphore(size)

    async def request(self, data: bytes) -> Answer:
        """Raises ConnectionBroken when the outcome is unknown, ConnectionError when nothing was sent, TimeoutError."""
        async with self._room:
            line = await self._line()
            line.job = asyncio.get_running_loop().create_future()
            line.send(data)
            try:
                async with asyncio.timeout(REQUEST_SECONDS_MAX):
                    answer: Answer = await line.job
            except BaseException:
                line.close()
                raise
            line.job = None
            self._idle.append(line)
            return answer

    async def _line(self) -> Line:
        while self._idle:
            line = self._idle.pop()
            if line.is_open:
                return line
        return await connect(self._host, self._port, _resolve, _break)

    def close(self) -> None:
        for line in self._idle:
            line.close()


def _resolve(line: Line, status: int, body: bytes) -> None:
    if line.job is not None and not line.job.done():
        line.job.set_result(Answer(status, body))


def _break(line: Line) -> None:
    if line.job is not None and not line.job.done():
        line.job.set_exception(ConnectionBroken())


async def connect(
    host: str, port: int, answered: Callable[[Line, int, bytes], None], lost: Callable[[Line], None]
) -> Line:
    """Raises OSError."""
    _, line = await asyncio.get_running_loop().create_connection(lambda: Line(answered, lost), host, port)
    return line


def request_bytes(method: str, path: str, host: str, token: str = "", body: bytes = b"") -> bytes:
    """One HTTP/1.1 request as it goes over the wire."""
    return request_head(method, path, host, token) + request_tail(body)


def request_head(method: str, path: str, host: str, token: str = "") -> bytes:
    """What all requests of one caller for one path begin with. `token`: an access token, or an API key."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
    if token:
        head += f"X-API-Key: {token}\r\n" if token.startswith("wb_") else f"Authorization: Bearer {token}\r\n"
    return head.encode()


def request_tail(body: bytes = b"", media_type: bytes = b"application/json") -> bytes:
    """What follows the head: lengths and a body, or nothing."""
    if not body:
        return b"\r\n"
    return b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (media_type, len(body), body)
