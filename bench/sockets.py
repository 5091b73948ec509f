"""A small WebSocket client for load: binary frames, many requests under way on each connection.

Frames are made before the run. They are masked, as RFC 6455 asks of clients, with a key of zeros, which changes no
byte: the mask is against proxies that guess, and there is none here.
"""

import asyncio
import base64
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any, Final, cast
from urllib.parse import urlsplit

import msgspec

from bench.closed import STALL_SECONDS_MAX, Round
from bench.machine import undisturbed

_BINARY, _CLOSE, _PING, _PONG = 0x82, 0x88, 0x89, 0x8A
_MASKED: Final = 0x80
_decode = msgspec.msgpack.Decoder().decode


def frame(payload: bytes, opcode: int = _BINARY) -> bytes:
    """One whole frame of a client."""
    size = len(payload)
    if size < 126:
        head = bytes((opcode, _MASKED | size))
    elif size < 65_536:
        head = bytes((opcode, _MASKED | 126)) + size.to_bytes(2)
    else:
        head = bytes((opcode, _MASKED | 127)) + size.to_bytes(8)
    return head + b"\0\0\0\0" + payload


class Socket(asyncio.Protocol):
    """`received` gets the payload of each binary frame, `lost` is called once."""

    def __init__(self, host: str, received: "Callable[[Socket, bytes], None]", lost: Callable[[], None]) -> None:
        self._host, self._received, self._lost = host, received, lost
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.frames: list[bytes] = []  # those still to be sent, the last one first
        self.place = 0  # of the next of them among those of all sockets

    def write(self, frames: list[bytes]) -> None:
        assert self._transport is not None, "the socket is closed"
        self._transport.write(b"".join(frames))

    def pause(self) -> None:
        """Read no more: what the server sends piles up there."""
        assert self._transport is not None, "the socket is closed"
        self._transport.pause_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.write(frame(b"", _CLOSE))
            self._transport.close()

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET /ws HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        if not self.opened.done():
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._buffer = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.opened.set_exception(ConnectionError(head[:100].decode()))
                return
            self.opened.set_result(None)
        self._buffer = data[self._frames(data) :]

    def _frames(self, data: bytes) -> int:
        """Take all whole frames; how many bytes those were."""
        place, end = 0, len(data)
        while end - place >= 2:
            opcode, size, start = data[place], data[place + 1], place + 2
            if size == 126:
                start += 2
                size = int.from_bytes(data[place + 2 : start])
            elif size == 127:
                start += 8
                size = int.from_bytes(data[place + 2 : start])
            if start > end or start + size > end:
                break
            payload, place = data[start : start + size], start + size
            if opcode == _BINARY:
                self._received(self, payload)
            elif opcode == _PING:
                self.write([frame(payload, _PONG)])
        return place

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._transport = None
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("the socket was refused"))
        self._lost()


async def pipelined(url: str, hellos: Sequence[bytes], payloads: Sequence[Sequence[bytes]], window: int) -> Round:
    """Open a connection for each of `payloads`, say its hello, then send its payloads, at most `window` unanswered.

    A payload's second element is its place among all of them, and an answer's the place of what it answers. The
    round's statuses count the first elements of the answers. Raises ConnectionError, TimeoutError.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    loop, pipeline = asyncio.get_running_loop(), _Pipeline(payloads)
    for many in payloads:
        make = partial(Socket, f"{host}:{port}", pipeline.received, pipeline.lost)
        _, socket = await loop.create_connection(make, host, port)
        await socket.opened
        pipeline.add(socket, many)
    if hellos:
        await pipeline.greet(hellos)
    with undisturbed():
        return await pipeline.run(window)


class _Pipeline:
    """The state of one round."""

    def __init__(self, payloads: Sequence[Sequence[bytes]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._total = sum(len(one) for one in payloads)
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._greeted: asyncio.Future[None] | None = None
        self._greetings: list[bytes] = []
        self._sent_ns, self._latencies_ns = [0] * self._total, [0] * self._total
        self._bodies = [b""] * self._total
        self._statuses: Counter[Any] = Counter()
        self._answers = self._placed = 0
        self._sockets: list[Socket] = []
        self._due: dict[Socket, int] = {}  # how many answers each got in this turn of the loop

    def add(self, socket: Socket, payloads: Sequence[bytes]) -> None:
        socket.frames, socket.place = [frame(one) for one in reversed(payloads)], self._placed
        self._placed += len(payloads)
        self._sockets.append(socket)

    async def greet(self, hellos: Sequence[bytes]) -> None:
        """Every socket says its hello and hears that it is welcome."""
        self._greeted = self._loop.create_future()
        for socket, hello in zip(self._sockets, hellos, strict=True):
            socket.write([frame(hello)])
        async with asyncio.timeout(STALL_SECONDS_MAX):
            await self._greeted
        self._greeted = None
        for greeting in map(_decode, self._greetings):
            if not greeting["ok"]:
                raise ConnectionError(f"a hello was refused: {greeting}")

    async def run(self, window: int) -> Round:
        cpu_ns, started_ns = time.process_time_ns(), perf_counter_ns()
        self._due.update(dict.fromkeys(self._sockets, window))
        self._send_more()
        seen = -1
        while not self._finished.done():
            if seen == self._answers:
                raise TimeoutError(f"no answer for {STALL_SECONDS_MAX:g} s, {seen} of {self._total} before")
            seen = self._answers
            await asyncio.wait([self._finished], timeout=STALL_SECONDS_MAX)
        await self._finished
        elapsed_ns, cpu_ns = perf_counter_ns() - started_ns, time.process_time_ns() - cpu_ns
        for socket in self._sockets:
            socket.close()
        self._latencies_ns.sort()
        return Round(elapsed_ns / 1e9, self._latencies_ns, self._statuses, self._bodies, cpu_ns)

    def received(self, socket: Socket, payload: bytes) -> None:
        if self._greeted is not None:
            self._greetings.append(payload)
            if len(self._greetings) == len(self._sockets):
                self._greeted.set_result(None)
            return
        answer = _decode(payload)
        place = answer[1]
        self._latencies_ns[place] = perf_counter_ns() - self._sent_ns[place]
        self._bodies[place] = payload
        self._statuses[answer[0]] += 1
        self._answers += 1
        if self._answers == self._total and not self._finished.done():
            self._finished.set_result(None)
        if not self._due:
            self._loop.call_soon(self._send_more)
        self._due[socket] = self._due.get(socket, 0) + 1

    def lost(self) -> None:
        if not self._finished.done():
            self._finished.set_exception(ConnectionError(f"a socket closed after {self._answers} answers"))

    def _send_more(self) -> None:
        """What was answered in this turn is replaced, in one write for each connection."""
        now_ns = perf_counter_ns()
        for socket, count in self._due.items():
            more = socket.frames[-count:]
            if more:
                del socket.frames[-count:]
                more.reverse()
                self._sent_ns[socket.place : socket.place + len(more)] = [now_ns] * len(more)
                socket.place += len(more)
                socket.write(more)
        self._due.clear()
