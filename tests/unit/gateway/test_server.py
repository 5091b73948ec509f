"""What the server adds to the application: answers in one write, and nobody's word for where he comes from.

Seen to fail for: uvicorn's own protocol in place of ours; `proxy_headers` left on.
"""

import asyncio
from typing import Any

from gateway.server import GatewayServer, WholeAnswers
from tests.unit.gateway.conftest import World


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.wrote = asyncio.Event()
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after the end"
        self.writes.append(data)
        self.wrote.set()

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 4_000) if name == "peername" else None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def _asked(world: World, request: bytes) -> Wire:
    server = GatewayServer(1, world.app, "127.0.0.1", 0, [])
    config, wire = server.uvicorn.config, Wire()
    config.load()
    protocol = WholeAnswers(config, server.uvicorn.server_state, {})
    protocol.connection_made(wire)  # type: ignore[arg-type]
    protocol.data_received(request)
    async with asyncio.timeout(5):
        await wire.wrote.wait()
    return wire


async def test_an_answer_leaves_in_one_write(world: World) -> None:
    wire = await _asked(world, b"GET /api/v1/markets HTTP/1.1\r\nhost: x\r\n\r\n")

    (answer,) = wire.writes
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert f"content-length: {len(body)}".encode() in head
    assert b"Z1-SPOT" in body


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


def test_the_server_speaks_with_whole_answers(world: World) -> None:
    assert GatewayServer(1, world.app, "127.0.0.1", 0, []).uvicorn.config.http is WholeAnswers
