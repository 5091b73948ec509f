"""What the server adds to the application, over real connections: answers in one write, and bounds on everybody.

Seen to fail for: uvicorn's own protocol in place of ours; an answer that waits for the loop's next turn;
`proxy_headers` left on; no round that ends what is overdue; a head without bound; a connection that stays counted after
its end; a closing connection that is never cut off; a server that lets people in before it knows the markets.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import websockets

from bench.installation import free_ports
from gateway import connections as bounds
from gateway.connections import Connections, Http
from gateway.server import GatewayServer
from tests.support.patience import HUNG_SECONDS, eventually
from tests.unit.gateway.conftest import World

ASK = b"GET /api/v1/markets HTTP/1.1\r\nhost: x\r\n\r\n"


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.wrote = asyncio.Event()
        self.closed = self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after the end"
        self.writes.append(data)
        self.wrote.set()

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 4_000) if name == "peername" else None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def _connected(world: World) -> tuple[Http, Wire]:
    server = GatewayServer(1, world.app, "127.0.0.1", 0, [])
    config, wire = server.uvicorn.config, Wire()
    config.load()
    protocol = Http(config, server.uvicorn.server_state, {})
    protocol.connection_made(cast(Any, wire))
    return protocol, wire


async def _asked(world: World, request: bytes) -> Wire:
    protocol, wire = _connected(world)
    protocol.data_received(request)
    async with asyncio.timeout(HUNG_SECONDS):
        await wire.wrote.wait()
    return wire


async def test_an_answer_leaves_in_one_write(world: World) -> None:
    wire = await _asked(world, ASK)

    (answer,) = wire.writes
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert f"content-length: {len(body)}".encode() in head
    assert b"Z1-SPOT" in body


async def test_an_answer_leaves_in_the_turn_in_which_it_ends(world: World) -> None:
    protocol, wire = _connected(world)
    protocol.data_received(ASK)
    while not protocol.cycle.response_complete:  # looks once in every turn of the loop
        assert not wire.writes
        await asyncio.sleep(0)

    assert wire.writes


async def test_a_closing_answer_leaves_before_the_end(world: World) -> None:
    wire = await _asked(world, b"GET /api/v1/markets HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")

    assert wire.closed
    assert b"Z1-SPOT" in b"".join(wire.writes)


async def test_the_address_that_limits_count_by_cannot_be_chosen(world: World) -> None:
    world.build(requests_limit=type(world.settings.requests_limit)(0.001, 2))
    answers = [
        await _asked(world, f"GET /api/v1/markets HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 10.0.0.{n}\r\n\r\n".encode())
        for n in range(3)
    ]

    assert [answer.writes[0][9:12] for answer in answers] == [b"200", b"200", b"429"]


class Line:
    """A client's connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> tuple[int, bytes]:
        """Status, and head and body together."""
        async with asyncio.timeout(HUNG_SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return int(head[9:12]), head + await self._reader.readexactly(length)

    async def end(self) -> bytes:
        """Whatever still comes, until the server hangs up."""
        async with asyncio.timeout(HUNG_SECONDS):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        self._writer.close()


class Served:
    def __init__(self, server: GatewayServer, port: int) -> None:
        self.server, self.port = server, port
        self._lines: list[Line] = []

    async def line(self) -> Line:
        line = Line(*await asyncio.open_connection("127.0.0.1", self.port))
        self._lines.append(line)
        return line

    def hang_up(self) -> None:
        for line in self._lines:
            line.close()


@asynccontextmanager
async def serving(world: World, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AsyncIterator[Served]:
    monkeypatch.setattr(bounds, "ROUND_SECONDS", 0.02)
    world.build(**settings)
    (port,) = free_ports(1)
    server = GatewayServer(1, world.app, "127.0.0.1", port, [])
    running = asyncio.create_task(server.run())
    await eventually(lambda: server.uvicorn.started)
    served = Served(server, port)
    try:
        yield served
    finally:
        served.hang_up()
        await server.drain()
        await running


async def test_nobody_comes_in_before_the_markets_are_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.server.MARKETS_SECONDS_MAX", 0.01)
    world.exchange.are_known.clear()
    server = GatewayServer(1, world.app, "127.0.0.1", 0, [])
    running = asyncio.create_task(server.run())
    await asyncio.sleep(0.1)
    assert not server.uvicorn.started

    world.exchange.are_known.set()

    await eventually(lambda: server.uvicorn.started)
    await server.drain()
    await running


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: "])
async def test_a_head_that_drips_is_ended(world: World, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    async with serving(world, monkeypatch, head_seconds_max=0.2) as served:
        slow, polite = await served.line(), await served.line()
        slow.send(start)

        said = await slow.end()
        polite.send(ASK)

        assert said.startswith(b"HTTP/1.1 408 ")
        for expected in (b"REQUEST_TIMEOUT", b"x-request-id: ", b"x-content-type-options: nosniff", b"problem+json"):
            assert expected in said
        assert (await polite.answer())[0] == 200


async def test_a_body_that_drips_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(world, monkeypatch, request_seconds_max=0.2) as served:
        line = await served.line()
        line.send(b"POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")

        said = await line.end()

    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in said


async def test_the_rest_of_a_body_that_nobody_reads_does_not_keep_the_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "LATE_SECONDS", 0.1)
    async with serving(world, monkeypatch, request_seconds_max=0.2) as served:
        line = await served.line()
        line.send(b"PATCH /api/v1/users/me HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")

        assert (await line.answer())[0] == 401
        assert b"408" in await line.end()


async def test_idle_connections_end_before_and_after_a_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "KEEP_ALIVE_SECONDS", 0.3)
    async with serving(world, monkeypatch) as served:
        silent, once = await served.line(), await served.line()
        once.send(ASK)
        assert (await once.answer())[0] == 200
        once.send(b"\r\n")  # no request, and must not pass for life

        assert await silent.end() == b""
        assert await once.end() == b""


@pytest.mark.parametrize("more", [b"x-long: " + b"a" * 200_000, b"x-many: 1\r\n" * 20_000])
async def test_a_head_without_end_is_431(world: World, monkeypatch: pytest.MonkeyPatch, more: bytes) -> None:
    async with serving(world, monkeypatch) as served:
        line = await served.line()
        line.send(b"GET / HTTP/1.1\r\nhost: x\r\n")
        await asyncio.sleep(0)
        line.send(more)

        said = await line.end()

    assert said == b"" or said.startswith(b"HTTP/1.1 431 ")


async def test_what_is_no_http_is_400_in_our_words(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(world, monkeypatch) as served:
        line = await served.line()
        line.send(b"\x16\x03\x01 this is TLS\r\n\r\n")

        said = await line.end()

    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"VALIDATION_FAILED" in said
    assert b"content-security-policy" in said


async def test_one_address_has_a_bounded_number_of_connections(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(world, monkeypatch, connections_per_address_max=2) as served:
        first, _second, third = await served.line(), await served.line(), await served.line()

        refused = await third.end()
        first.send(ASK)

        assert refused.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 5" in refused
        assert (await first.answer())[0] == 200
        first.close()
        await eventually(lambda: served.server.connections.of_address("127.0.0.1") == 1)
        again = await served.line()
        again.send(ASK)
        assert (await again.answer())[0] == 200


async def test_all_addresses_together_have_a_bound_and_proxies_none_of_their_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = {"connections_max": 2, "connections_per_address_max": 1, "trusted_proxies": ("127.0.0.1",)}
    async with serving(world, monkeypatch, **bounded) as served:
        first, second, third = await served.line(), await served.line(), await served.line()
        for line in (first, second):
            line.send(ASK)
            assert (await line.answer())[0] == 200

        assert (await third.end()).startswith(b"HTTP/1.1 503 ")


async def test_a_websocket_stays_counted_until_it_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(world, monkeypatch) as served:
        counted = served.server.connections
        async with websockets.connect(f"ws://127.0.0.1:{served.port}/ws") as one:
            await one.send('{"op": "ping", "id": 1}')
            assert "pong" in str(await one.recv())
            assert (len(counted), counted.of_address("127.0.0.1")) == (1, 1)
        await eventually(lambda: not len(counted))
        assert counted.of_address("127.0.0.1") == 0


async def test_who_does_not_read_his_last_answer_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "LINGER_SECONDS", -1.0)
    counted, wire = Connections(world.settings), Wire()
    counted.admit(cast(Any, wire))
    wire.close()

    counted.end_overdue()
    assert not wire.aborted
    counted.end_overdue()

    assert wire.aborted


def test_the_server_speaks_with_our_protocols(world: World) -> None:
    config = GatewayServer(1, world.app, "127.0.0.1", 0, []).uvicorn.config

    assert config.http is Http
    assert not config.proxy_headers
