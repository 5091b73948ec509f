"""The socket protocol between gateways and actors: length-prefixed msgpack frames, pipelined both ways.

A frame is a 4-byte big-endian length and that many bytes: a list of messages, those of one turn of the loop, some
dozens at most. Before the first one both ends prove that they know the cluster's secret (HMAC-SHA256 over both nonces).
A request is `[id, body]`, its answer `[id, answer, us]` with the time that it spent at the other end; id 0 is news that
nobody asked for. Whatever can grow has a bound; a peer that breaks one, or speaks something else, is disconnected.
"""

import asyncio
import hmac
import secrets
from typing import Final, Protocol, cast

import structlog

from actors.detour import around

FRAME_BYTES_MAX: Final = 8 * 2**20
MESSAGES_AT_ONCE: Final = (
    32  # in a frame: the peer works on these while the turn goes on; fewer would wake it too often
)
BYTES_AT_ONCE: Final = 2**20  # in a frame of several messages
UNSENT_BYTES_MAX: Final = 64 * 2**20  # a peer that lets this much pile up is gone
HANDSHAKE_SECONDS: Final = 5.0
_NONCE_BYTES: Final = 32
_PROOF_BYTES: Final = 32
_SERVER: Final = b"wattbook-dataplane-v2 server"
_CLIENT: Final = b"wattbook-dataplane-v2 client"
_ARRAY_16: Final = b"\xdc"  # msgpack's list of as many as the next two bytes say

log = structlog.get_logger()


class Secret:
    """Bytes that never show themselves in a log, a traceback or Ray's dashboard."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"


class Receiver(Protocol):
    """What a connection tells its owner; called on the loop, must not block."""

    def connected(self, connection: "Connection") -> None: ...
    def received(self, connection: "Connection", frames: list[bytes]) -> None: ...
    def lost(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """One end of the protocol. `received` gets all whole frames of a read at once."""

    def __init__(self, secret: Secret, receiver: Receiver, *, is_server: bool) -> None:
        self._secret = secret
        self._receiver = receiver
        self._is_server = is_server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._own_nonce = secrets.token_bytes(_NONCE_BYTES)
        self._ready = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._ready and self._transport is not None and not self._transport.is_closing()

    def send(self, message: bytes) -> None:
        """Queue one encoded message; it leaves with others of this turn of the loop."""
        if self._out_bytes + len(message) > BYTES_AT_ONCE:
            self._flush()
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(message)
        self._out_bytes += len(message)
        if len(self._out) >= MESSAGES_AT_ONCE:
            self._flush()

    def close(self) -> None:
        """End the connection; what was sent before still leaves."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    # --- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases
        self._timer = self._loop.call_later(HANDSHAKE_SECONDS, self._refuse, "no handshake in time")
        if self._is_server:
            self._transport.write(self._own_nonce)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._ready and not self._handshake():
            return
        frames = self._frames()
        if frames:
            self._receiver.received(self, frames)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        if self._timer is not None:
            self._timer.cancel()
        was_ready, self._ready, self._transport = self._ready, False, None
        self._out, self._out_bytes = [], 0
        if was_ready or not self._is_server:
            self._receiver.lost(self)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        transport = self._transport
        if transport is None or transport.is_closing() or not out:
            return
        messages = b"".join((_ARRAY_16, len(out).to_bytes(2, "big"), *out))
        transport.write(len(messages).to_bytes(4, "big") + messages)
        if transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self._refuse("does not read what it is sent")

    def _frames(self) -> list[bytes]:
        """Cut all whole frames off the buffer."""
        buffer, frames, start, end = self._buffer, [], 0, len(self._buffer)
        while end - start >= 4:
            length = int.from_bytes(buffer[start : start + 4], "big")
            if length > FRAME_BYTES_MAX:
                self._refuse(f"a frame of {length} bytes")
                return []
            if end - start < 4 + length:
                break
            frames.append(bytes(buffer[start + 4 : start + 4 + length]))
            start += 4 + length
        if start:
            del buffer[:start]
        return frames

    def _handshake(self) -> bool:
        """Take the peer's part of the handshake; True once both ends have proved themselves.

        server: nonce  ->  client: nonce + proof  ->  server: proof
        """
        transport = self._transport
        assert transport is not None
        if self._is_server:
            if len(self._buffer) < _NONCE_BYTES + _PROOF_BYTES:
                return False
            peer_nonce, proof = self._take(_NONCE_BYTES), self._take(_PROOF_BYTES)
            if not hmac.compare_digest(proof, self._proof(_CLIENT, self._own_nonce, peer_nonce)):
                self._refuse("does not know the cluster's secret")
                return False
            transport.write(self._proof(_SERVER, self._own_nonce, peer_nonce))
        else:
            if not hasattr(self, "_peer_nonce"):
                if len(self._buffer) < _NONCE_BYTES:
                    return False
                self._peer_nonce = self._take(_NONCE_BYTES)
                transport.write(self._own_nonce + self._proof(_CLIENT, self._peer_nonce, self._own_nonce))
            if len(self._buffer) < _PROOF_BYTES:
                return False
            if not hmac.compare_digest(
                self._take(_PROOF_BYTES), self._proof(_SERVER, self._peer_nonce, self._own_nonce)
            ):
                self._refuse("does not know the cluster's secret")
                return False
        if self._timer is not None:
            self._timer.cancel()
        self._ready = True
        self._receiver.connected(self)
        return True

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _proof(self, who: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
        return hmac.digest(self._secret.reveal(), who + server_nonce + client_nonce, "sha256")

    def _refuse(self, why: str) -> None:
        """End a connection whose peer broke a rule; abort, because it may never read again."""
        log.warning("dataplane.refused", why=why)
        if self._transport is not None:
            self._transport.abort()


class Server:
    """Listens for gateways. `address` is what the supervisor publishes: host:port."""

    def __init__(self, secret: Secret, receiver: Receiver) -> None:
        self._secret, self._receiver = secret, receiver
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self.address = ""

    async def start(self, host: str, port: int = 0) -> str:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self._secret, self, is_server=True), host, port)
        name = self._server.sockets[0].getsockname()
        self.address = f"{host}:{name[1]}"
        return self.address

    async def stop(self) -> None:
        """Take no more connections, and end those that are open once what was written to them has left."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.close()

    def connected(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._receiver.connected(connection)

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        self._receiver.received(connection, frames)

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._receiver.lost(connection)


async def connect(address: str, secret: Secret, receiver: Receiver) -> Connection:
    """Open a connection to host:port; the receiver hears `connected` once the handshake is done.

    Raises OSError or TimeoutError.
    """
    way, first = around(address)
    host, _, port = way.rpartition(":")
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(HANDSHAKE_SECONDS):
        transport, connection = await loop.create_connection(
            lambda: Connection(secret, receiver, is_server=False), host, int(port)
        )
    if first:
        transport.write(first)  # the server speaks first, so nothing of ours has left yet
    return connection
