"""The socket protocol: who does not prove himself gets nothing, who breaks a rule is cut off, bounds hold."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from actors import dataplane
from actors.dataplane import Connection, Secret, Server, connect
from actors.links import Links, Place
from engine.market import MarketSpec, Path
from engine.messages import CancelAll, Tick
from engine.views import Applied, Failed, Fault, GetMarket
from tests.support.exchange import SECRET
from tests.support.patience import HUNG_SECONDS, eventually

encode = msgspec.msgpack.encode
SPEC = MarketSpec(market_id=1, symbol="M", zones=("Z1",), paths=(Path("Z1", "Z1", 0, 0),))


class Mailbox:
    """Keeps what a connection tells its owner."""

    def __init__(self, echo: bool = False) -> None:
        self.frames = 0
        self.messages: list[Any] = []
        self.open: list[Connection] = []
        self.lost_count = 0
        self._echo = echo

    def connected(self, connection: Connection) -> None:
        self.open.append(connection)

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        for frame in frames:
            self.frames += 1
            messages = msgspec.msgpack.decode(frame)
            self.messages += messages
            for message in messages:
                self.answer(connection, message)

    def answer(self, connection: Connection, message: Any) -> None:
        if self._echo:
            connection.send(encode(message))

    def lost(self, connection: Connection) -> None:
        self.lost_count += 1


@pytest_asyncio.fixture
async def server() -> AsyncIterator[tuple[Server, Mailbox]]:
    mailbox = Mailbox(echo=True)
    listening = Server(SECRET, mailbox)
    await listening.start("127.0.0.1")
    yield listening, mailbox
    await listening.stop()


async def test_messages_arrive_whole_and_in_order(server: tuple[Server, Mailbox]) -> None:
    mailbox = Mailbox()
    connection = await connect(server[0].address, SECRET, mailbox)
    await eventually(lambda: bool(mailbox.open))
    sent = [bytes([number % 256]) * (number * 37 % 5_000) for number in range(200)]

    for message in sent:
        connection.send(encode(message))

    await eventually(lambda: len(mailbox.messages), lambda count: count == len(sent))
    assert mailbox.messages == sent


async def test_messages_of_one_turn_share_frames_up_to_their_bounds(server: tuple[Server, Mailbox]) -> None:
    connection = await connect(server[0].address, SECRET, Mailbox())
    await eventually(lambda: bool(server[1].open))

    for number in range(2 * dataplane.MESSAGES_AT_ONCE + 1):
        connection.send(encode(number))
    await eventually(lambda: len(server[1].messages), lambda count: count == 2 * dataplane.MESSAGES_AT_ONCE + 1)
    assert server[1].frames == 3

    large = b"x" * (dataplane.FRAME_BYTES_MAX - 100)
    for message in (1, large, 2, large):
        connection.send(encode(message))
    await eventually(lambda: server[1].messages[-1], lambda last: last == large)
    assert server[1].frames == 3 + 4


async def test_a_client_with_another_secret_gets_nothing(server: tuple[Server, Mailbox]) -> None:
    mailbox = Mailbox()
    await connect(server[0].address, Secret(b"x" * 32), mailbox)

    await eventually(lambda: mailbox.lost_count)

    assert mailbox.open == []
    assert server[1].open == []


async def test_a_server_with_another_secret_is_not_believed() -> None:
    impostor = Server(Secret(b"x" * 32), Mailbox())
    await impostor.start("127.0.0.1")
    mailbox = Mailbox()
    await connect(impostor.address, SECRET, mailbox)

    await eventually(lambda: mailbox.lost_count)

    assert mailbox.open == []
    await impostor.stop()


async def test_a_stranger_that_says_nothing_is_cut_off(
    server: tuple[Server, Mailbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataplane, "HANDSHAKE_SECONDS", 0.1)
    host, _, port = server[0].address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readexactly(32)

    assert await asyncio.wait_for(reader.read(), HUNG_SECONDS) == b""
    writer.close()


async def test_a_frame_beyond_the_bound_ends_the_connection(server: tuple[Server, Mailbox]) -> None:
    mailbox = Mailbox()
    connection = await connect(server[0].address, SECRET, mailbox)
    await eventually(lambda: bool(mailbox.open))

    connection.send(b"x" * (dataplane.FRAME_BYTES_MAX + 1))

    await eventually(lambda: mailbox.lost_count)
    assert server[1].frames == 0


async def test_a_peer_that_does_not_read_is_cut_off(
    server: tuple[Server, Mailbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataplane, "UNSENT_BYTES_MAX", 1_000_000)
    mailbox = Mailbox()
    connection = await connect(server[0].address, SECRET, mailbox)
    await eventually(lambda: bool(mailbox.open))
    connection._transport.pause_reading()  # type: ignore[union-attr]

    for _ in range(20):
        server[1].open[0].send(b"x" * 1_000_000)
        await asyncio.sleep(0.01)

    await eventually(lambda: server[1].lost_count)


def test_the_secret_does_not_show_itself() -> None:
    assert "sss" not in repr(SECRET)
    assert "sss" not in f"{SECRET}"


class Places:
    def __init__(self, address: str) -> None:
        self.address = address
        self.fails = False

    async def __call__(self, *, waits: bool = False) -> list[Place]:
        if self.fails:
            raise ConnectionError("planted")
        return [Place(SPEC, self.address)]


async def test_requests_under_way_on_a_broken_link_are_unknown_and_queries_are_not() -> None:
    silent = Mailbox()
    server = Server(SECRET, silent)
    await server.start("127.0.0.1")
    links = Links(Places(server.address), SECRET)
    running = asyncio.create_task(links.run())
    await eventually(lambda: bool(silent.open))

    command = asyncio.create_task(links.submit(1, CancelAll(1)))
    query = asyncio.create_task(links.ask(1, GetMarket()))
    await eventually(lambda: len(silent.messages), lambda count: count == 2)
    await server.stop()

    unknown, unavailable = await command, await query
    assert isinstance(unknown, Failed)
    assert unknown.fault is Fault.OUTCOME_UNKNOWN
    assert isinstance(unavailable, Failed)
    assert unavailable.fault is Fault.UNAVAILABLE
    running.cancel()
    await asyncio.wait([running])


async def test_a_link_survives_a_directory_that_fails_and_follows_a_market_that_moves() -> None:
    class Answering(Mailbox):
        def answer(self, connection: Connection, message: Any) -> None:
            connection.send(encode((message[0], Applied(7), 0)))

    first, second = Server(SECRET, Answering()), Server(SECRET, Answering())
    places = Places(await first.start("127.0.0.1"))
    links = Links(places, SECRET)
    running = asyncio.create_task(links.run())
    await eventually(lambda: "M" in links.markets())
    assert await links.submit(1, Tick()) == Applied(7)

    places.fails = True
    await asyncio.sleep(0.2)
    assert await links.submit(1, Tick()) == Applied(7)
    places.fails = False
    places.address = await second.start("127.0.0.1")
    await first.stop()

    answer = await links.submit(1, Tick())
    while isinstance(answer, Failed):
        answer = await links.submit(1, Tick())
    assert answer == Applied(7)
    running.cancel()
    await asyncio.wait([running])
    await second.stop()


async def test_a_market_that_refuses_to_be_watched_is_asked_again_but_not_at_once() -> None:
    class Refusing(Mailbox):
        def answer(self, connection: Connection, message: Any) -> None:
            connection.send(encode((message[0], Failed(Fault.OVERLOADED, "busy"), 0)))

    refusing = Refusing()
    server = Server(SECRET, refusing)
    links = Links(Places(await server.start("127.0.0.1")), SECRET)
    running = asyncio.create_task(links.run())
    await eventually(lambda: bool(refusing.open))

    links.watch(1, frozenset(), True, lambda _: None)
    await eventually(lambda: len(refusing.messages), lambda count: count >= 3)

    assert len(refusing.messages) < 10
    running.cancel()
    await asyncio.wait([running])
    await server.stop()


async def test_an_unknown_market_is_unavailable_at_once() -> None:
    links = Links(Places(""), SECRET)

    answer = await links.submit(5, Tick())
    answers = await links.submit_many(5, [Tick(), Tick()])

    assert isinstance(answer, Failed)
    assert [type(one) for one in answers] == [Failed, Failed]
