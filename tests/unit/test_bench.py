"""The engine bench does the same work as ever, and the load generator measures and sends what it says.

Seen to fail for: latency counted from the sending instead of the intended time, a repeat with another client_order_id,
an answer taken for whole when its head was, a broken connection that is not replaced or whose order is not repeated, an
order cancelled twice, a login that lapses unseen, a metronome that is early, a frame length in the wrong form.
"""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter_ns
from typing import Any

import msgspec
import pytest

from bench import load
from bench.client import AckLog, ApiError, Trader
from bench.closed import closed_loop
from bench.http import HttpPool, request_bytes
from bench.load import Outcome, Plan, run
from bench.metronome import Metronome
from bench.sockets import frame
from tests.support.patience import HUNG_SECONDS


@pytest.mark.parametrize("bench", ["bench_engine", "bench_auction"])
def test_a_bench_of_the_engine_does_the_same_work_twice(bench: str) -> None:
    command = [sys.executable, "-m", f"bench.{bench}", "--smoke"]

    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))

    checksums = [re.findall(r"checksum=([0-9a-f]{8})", said) for said in (first, second)]
    assert checksums[0] == checksums[1]
    assert len(checksums[0]) == 1
    assert re.search(r"rate=\d+/s|median=[\d.]+ms", first)
    assert re.search(r"machine: .+ cores", first)


class Exchange:
    """An HTTP server that answers orders as its list of faults says, one for each request, and then well."""

    def __init__(self, *faults: str) -> None:
        self._faults = list(faults)
        self.asked: list[tuple[str, str]] = []  # method and client_order_id, or the path

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            length = re.search(r"Content-Length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            method, path = head.split(" ")[:2]
            order = msgspec.json.decode(body) if body else {}
            self.asked.append((method, order.get("client_order_id", path)))
            if not await self._answer(order, writer):
                break
        writer.close()

    async def _answer(self, order: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        fault = self._faults.pop(0) if self._faults else ""
        if fault == "hang up":
            return False
        if fault == "stall":
            await asyncio.sleep(0.2)
        shown = {
            **order,
            "order_id": f"1-{len(self.asked)}",
            "filled_quantity": "0.000",
            "status": "open",
            "sequence": len(self.asked),
            "fills": [],
        }
        body = msgspec.json.encode(shown)
        status = "503 Service Unavailable" if fault == "unknown" else "201 Created"
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        for piece in (head.encode(), body[:20], body[20:]) if fault == "pieces" else (head.encode() + body,):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01 if fault == "pieces" else 0)
        return True

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()


async def _load(exchange: Exchange, log: AckLog, *, rate: int, seconds: float, connections: int = 1) -> Outcome:
    async with exchange.listening() as url:
        host = url.removeprefix("http://")
        trader = Trader(HttpPool("127.0.0.1", int(host.partition(":")[2]), 1), host, "somebody@example.org", "")
        trader.user_id, trader.token = "7", "token"
        plan = Plan(url, rate, seconds, 1, connections=connections, cancel_percent=0)
        async with asyncio.timeout(HUNG_SECONDS):
            return await run(plan, log, [trader])


async def test_latency_counts_from_the_intended_time() -> None:
    outcome = await _load(Exchange("stall"), AckLog(), rate=100, seconds=0.1)

    assert outcome.statuses == {"201": 10}
    assert outcome.latencies_ns[0] > 80_000_000  # the last of ten was due 90 ms after the first, and waited too
    assert outcome.latencies_ns[-1] > 200_000_000


async def test_an_unknown_outcome_is_repeated_under_the_same_name_until_it_is_known() -> None:
    exchange, log = Exchange("unknown", "unknown"), AckLog()

    outcome = await _load(exchange, log, rate=10, seconds=0.1)

    assert outcome.statuses == {"201": 1}
    assert outcome.repeats == 2
    assert len(exchange.asked) == 3
    assert len(set(exchange.asked)) == 1
    assert [ack.client_order_id for ack in log.acknowledgements] == [exchange.asked[0][1]]


async def test_an_order_whose_connection_broke_is_repeated_on_a_new_one() -> None:
    exchange, log = Exchange("", "hang up"), AckLog()

    outcome = await _load(exchange, log, rate=100, seconds=0.05)

    assert outcome.statuses == {"201": 5}
    assert outcome.errors == 0
    names = [name for _, name in exchange.asked]
    assert len(names) == 6
    assert len(set(names)) == 5
    assert {ack.client_order_id for ack in log.acknowledgements} == set(names)


class Forgotten(Trader):
    async def login(self) -> None:
        raise ApiError(401, "the address or the password is wrong")


async def test_a_login_that_cannot_be_renewed_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "LOGIN_SECONDS", 0.05)
    exchange = Exchange()
    async with exchange.listening() as url:
        host = url.removeprefix("http://")
        trader = Forgotten(HttpPool("127.0.0.1", int(host.partition(":")[2]), 1), host, "somebody@example.org", "")
        trader.user_id, trader.token = "7", "token"
        async with asyncio.timeout(HUNG_SECONDS):
            with pytest.raises(ApiError, match="401"):
                await run(Plan(url, 10, 300.0, 1, connections=1, cancel_percent=0), AckLog(), [trader])


async def test_cancels_take_back_what_rests() -> None:
    exchange = Exchange()
    async with exchange.listening() as url:
        trader = Trader(HttpPool("127.0.0.1", 1, 1), "", "somebody@example.org", "")

        await run(Plan(url, 500, 0.2, 1, connections=4, cancel_percent=50), AckLog(), [trader])

    cancelled = [name for method, name in exchange.asked if method == "DELETE"]
    assert len(exchange.asked) == 100
    assert 20 < len(cancelled) < 70
    assert len(set(cancelled)) == len(cancelled)


async def test_an_answer_may_come_in_pieces() -> None:
    exchange = Exchange("pieces", "pieces")
    async with exchange.listening() as url:
        host, bodies = url.removeprefix("http://"), [msgspec.json.encode({"number": n}) for n in range(4)]

        done = await closed_loop(url, [request_bytes("POST", "/", host, "", body) for body in bodies], 2)

    assert done.statuses == {201: 4}
    assert [msgspec.json.decode(body)["number"] for body in done.bodies] == [0, 1, 2, 3]


async def test_the_metronome_calls_at_its_instant() -> None:
    rung: list[int] = []
    metronome = Metronome(lambda: rung.append(perf_counter_ns()))
    due = perf_counter_ns() + 5_000_000
    metronome.at(due - 4_000_000)

    metronome.at(due)
    await asyncio.sleep(0.05)
    metronome.close()

    assert len(rung) == 1
    assert rung[0] >= due - 1_000_000  # an event loop's own timer may come that much early


def test_a_client_frame_says_its_length_in_all_three_ways() -> None:
    for size, head in ((5, b"\x82\x85"), (300, b"\x82\xfe\x01\x2c"), (70_000, b"\x82\xff" + (70_000).to_bytes(8))):
        assert frame(b"x" * size) == head + b"\0\0\0\0" + b"x" * size
