"""One connection to an LDAP server, from TLS to the end; one operation at a time.

It knows no time: whoever uses it says how long all of it may take. References and referrals are never followed.
"""

import asyncio
import ssl
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from msgspec import Struct

from gateway.directory import messages
from gateway.directory.messages import SUCCESS, AnyOf, Done, Entry, Equals, Garbled, Received

FRAME_BYTES_MAX: Final = 1_000_000
MESSAGES_MAX: Final = 1_000  # of one operation
_SEQUENCE: Final = 0x30
_LONG_LENGTH: Final = 0x80


class Refused(Exception):
    """The server's result code, where we had counted on success."""

    def __init__(self, operation: str, code: int) -> None:
        super().__init__(f"{operation} ended with result code {code}")
        self.code = code


class Server(Struct, frozen=True):
    """From `ldap://host:389`, where StartTLS comes first, or `ldaps://host:636`."""

    host: str
    port: int
    tls_first: bool

    @classmethod
    def at(cls, url: str) -> Self:
        parts = urlsplit(url)
        assert parts.scheme in ("ldap", "ldaps"), "settings are checked before"
        tls_first = parts.scheme == "ldaps"
        return cls(parts.hostname or "", parts.port or (636 if tls_first else 389), tls_first)


class Connection:
    """`async with await Connection.open(...)`. Raises OSError (ssl.SSLError is one), Garbled, Refused."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.Transport) -> None:
        self._reader, self._transport, self._number = reader, transport, 0

    @classmethod
    async def open(cls, server: Server, tls: ssl.SSLContext) -> Self:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=FRAME_BYTES_MAX)
        transport, _ = await loop.create_connection(
            lambda: asyncio.StreamReaderProtocol(reader),
            server.host,
            server.port,
            ssl=tls if server.tls_first else None,
            server_hostname=server.host if server.tls_first else None,
        )
        connection = cls(reader, transport)
        if not server.tls_first:
            try:
                await connection._start_tls(server, tls)
            except BaseException:
                connection._transport.abort()
                raise
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._transport.close()
        else:
            self._transport.abort()  # what is under way may never end

    async def bind(self, dn: str, password: bytes) -> int:
        """The result code."""
        self._number += 1
        _, done = await self._asked(messages.bind(self._number, dn, password))
        return done.code

    async def search(
        self,
        base: str,
        scope: int,
        condition: Equals | AnyOf,
        attributes: tuple[str, ...],
        limits: tuple[int, int],
        also_fine: frozenset[int] = frozenset(),
    ) -> list[Entry]:
        """limits: entries and seconds. Raises Refused for a result code that is neither success nor `also_fine`."""
        self._number += 1
        request = messages.search(self._number, base, scope, condition, attributes, limits)
        found, done = await self._asked(request)
        if done.code not in {SUCCESS, *also_fine}:
            raise Refused("search", done.code)
        return found

    async def _start_tls(self, server: Server, tls: ssl.SSLContext) -> None:
        self._number += 1
        _, done = await self._asked(messages.start_tls(self._number))
        if done.code != SUCCESS:
            raise Refused("StartTLS", done.code)
        # A fresh reader: what somebody slipped in before TLS stays in the old one and is never read as an answer.
        reader = asyncio.StreamReader(limit=FRAME_BYTES_MAX)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(self._transport, protocol, tls, server_hostname=server.host)
        if transport is None:
            raise ConnectionResetError("the connection ended while TLS began")
        protocol.connection_made(transport)
        self._reader, self._transport = reader, transport

    async def _asked(self, request: bytes) -> tuple[list[Entry], Done]:
        """What the server answers to the newest request, up to its end."""
        self._transport.write(request)
        found: list[Entry] = []
        for _ in range(MESSAGES_MAX):
            received = await self._receive()
            if received.number != self._number:  # 0: the server says goodbye
                raise Garbled(f"message {received.number} answers nothing")
            if isinstance(received.content, Done):
                return found, received.content
            if isinstance(received.content, Entry):
                found.append(received.content)
        raise Garbled(f"more than {MESSAGES_MAX} messages")

    async def _receive(self) -> Received:
        try:
            frame = await self._reader.readexactly(2)
            length = frame[1]
            if length >= _LONG_LENGTH:
                more = length - _LONG_LENGTH
                if not 1 <= more <= 4:
                    raise Garbled("a length that is none")
                digits = await self._reader.readexactly(more)
                frame, length = frame + digits, int.from_bytes(digits, "big")
            if frame[0] != _SEQUENCE or length > FRAME_BYTES_MAX:
                raise Garbled("no LDAP message, or one that is too long")
            return messages.decode(frame + await self._reader.readexactly(length))
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the server ended the connection") from None
