"""What a thousand readers of one book cost: whether they all follow, how late, and what orders notice of it.

Why it matters: everybody with a screen reads the book, and each commit changes it. 1,000 orders a second leave over 8
connections at their intended times, first alone, then with 1,000 WebSockets subscribed to the book. Each reader
checks that a delta begins where the one before has ended; at the end all of them must be where the market is. A reader
sees fewer deltas than there are commits, for a gateway with many readers merges them. The delay is from an order's
intended time until a reader has the delta with it, of ten readers.

Run:  python -m bench.bench_feed            the canonical size; quote only these numbers
      python -m bench.bench_feed --smoke    small; run by the tests, so that it cannot rot
"""

import asyncio
import contextlib
import zlib
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Final
from urllib.parse import urlsplit

import msgspec
import uvloop
from msgspec import Struct

from bench.client import Trader
from bench.installation import Target, arguments, settle, target
from bench.load import SECOND_NS
from bench.machine import Result, machine, percentile, record, times, undisturbed
from bench.metronome import Metronome
from bench.orders import MARKET, Wish, wishes
from bench.people import PLENTY, people
from bench.processes import parts
from bench.sockets import Socket, frame

READERS, UPDATES_PER_SECOND, SECONDS, TRADERS, LOOKED_AT = 1_000, 1_000, 20, 8, 10
WAIT_SECONDS_MAX: Final = 30.0
MB: Final = 1 << 20

_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


class Told(Struct):
    """What matters of a message of the book."""

    type: str = ""
    sequence: int = 0
    previous_sequence: int = 0


_told = msgspec.msgpack.Decoder(Told).decode


class Reader:
    """One subscription. `seen`: (sequence, when it came)."""

    def __init__(self, keeps: bool) -> None:
        self.sequence = self.deltas = 0
        self.seen: list[tuple[int, int]] = []
        self.fault, self.is_over = "", False
        self._keeps = keeps

    def received(self, _: Socket, payload: bytes) -> None:
        told = _told(payload)
        if told.type == "delta":
            if told.previous_sequence != self.sequence:
                self.fault = f"a delta from {told.previous_sequence} came at {self.sequence}"
            self.deltas += 1
        elif told.type != "snapshot":
            if told.type:  # but the answer to its subscription
                self.fault = f"told {told.type}"
            return
        self.sequence = told.sequence
        if self._keeps:
            self.seen.append((told.sequence, perf_counter_ns()))

    def lost(self) -> None:
        self.fault = self.fault or ("" if self.is_over else "the connection was lost")


class Orders:
    """Orders at their intended times over a few connections, and when each was answered with which sequence."""

    def __init__(self, wanted: list[Wish]) -> None:
        self.wanted, total = wanted, len(wanted)
        self.intended_ns, self.answered_ns, self.sequences = [0] * total, [0] * total, [0] * total
        self.answers = self.greeted = 0
        self.fault, self.is_over = "", False

    def received(self, _: Socket, payload: bytes) -> None:
        answer = _decode(payload)
        if isinstance(answer, dict) and answer.get("ok"):
            self.greeted += 1
        elif isinstance(answer, dict) or answer[0] != "a":
            self.fault = f"refused: {answer}"
        else:
            self.answered_ns[answer[1]], self.sequences[answer[1]] = perf_counter_ns(), answer[4]
            self.answers += 1

    def lost(self) -> None:
        self.fault = self.fault or ("" if self.is_over else "a trader's connection was lost")

    @property
    def latencies_ns(self) -> list[int]:
        return sorted(after - before for before, after in zip(self.intended_ns, self.answered_ns, strict=True))


class Run(Struct):
    quiet: Orders
    beside: Orders
    readers: list[Reader]
    memory_mb: float  # of the gateway: by how much it was larger than before


def main() -> None:
    given = arguments(__doc__).parse_args()
    seconds, readers = (1, 80) if given.smoke else (SECONDS, READERS)
    with target(given) as exchange:
        run = uvloop.run(_measure(exchange, seconds, readers, given.smoke))
    last = max(run.beside.sequences)
    faults = [run.quiet.fault, run.beside.fault, *(one.fault for one in run.readers)]
    faults += [f"a reader is at {one.sequence}, not at {last}" for one in run.readers if one.sequence < last]
    if any(faults):
        raise SystemExit(f"{sum(map(bool, faults))} faults, the first: {next(filter(None, faults))}")
    delays, deltas = _delays_ns(run), sum(one.deltas for one in run.readers)
    began_ns, ended_ns = run.beside.intended_ns[0], max(run.beside.answered_ns)
    rate = len(run.beside.sequences) * SECOND_NS // (ended_ns - began_ns)
    checksum = zlib.crc32(",".join(str(one.quantity_wh) for one in run.quiet.wanted + run.beside.wanted).encode())
    print(f"machine: {machine()}")
    print(f"readers={len(run.readers)} updates={len(run.beside.sequences)} checksum={checksum:08x} rate={rate}/s")
    print(f"deltas per reader={deltas // len(run.readers)}, {deltas * SECOND_NS // (ended_ns - began_ns)} a second")
    print(f"until a reader has it: {times(delays)}")
    print(f"orders alone:  {times(run.quiet.latencies_ns)}")
    print(f"orders beside: {times(run.beside.latencies_ns)}")
    print(f"the gateway's memory grew by {run.memory_mb:.0f} MB")
    if not given.smoke:
        bench = "book feed, 1,000 readers"
        record(
            [
                Result(bench, "updates", rate, "1/s", UPDATES_PER_SECOND, rate >= UPDATES_PER_SECOND * 0.99),
                Result(bench, "messages", deltas * SECOND_NS // (ended_ns - began_ns), "1/s"),
                Result(bench, "delay, p50", round(percentile(delays, 500) / 1e6, 1), "ms"),
                Result(bench, "delay, p99", round(percentile(delays, 990) / 1e6, 1), "ms"),
                Result(bench, "orders alone, p99", round(percentile(run.quiet.latencies_ns, 990) / 1e6, 1), "ms"),
                Result(bench, "orders beside, p99", round(percentile(run.beside.latencies_ns, 990) / 1e6, 1), "ms"),
                Result(bench, "gateway grew by", round(run.memory_mb), "MB"),
            ]
        )


def _delays_ns(run: Run) -> list[int]:
    """From each order's intended time until each of the readers that are looked at had it, ascending."""
    delays = []
    for reader in run.readers[:LOOKED_AT]:
        reached = [sequence for sequence, _ in reader.seen]
        for intended_ns, sequence in zip(run.beside.intended_ns, run.beside.sequences, strict=True):
            delays.append(reader.seen[bisect_left(reached, sequence)][1] - intended_ns)
    return sorted(delays)


async def _measure(exchange: Target, seconds: int, count: int, smoke: bool) -> Run:
    traders = await people(exchange.url, exchange.data_dir, TRADERS, PLENTY)
    if not smoke:
        settle()
    quiet = await _trade(exchange, traders, seconds, 0)
    readers = [Reader(number < LOOKED_AT) for number in range(count)]
    sockets = [await _opened(exchange, one.received, one.lost) for one in readers]
    for socket in sockets:
        socket.write([frame(_encode({"op": "subscribe", "id": 0, "channel": "book", "market": MARKET}))])
    await _until(lambda: all(one.sequence for one in readers))
    if not smoke:
        settle()
    before = _gateway_mb(exchange.data_dir)
    largest = [before]
    watching = asyncio.create_task(_watch(exchange.data_dir, largest))
    try:
        beside = await _trade(exchange, traders, seconds, 1)
        last = max(beside.sequences)
        with contextlib.suppress(TimeoutError):  # who is not there by then is told of by name
            await _until(lambda: all(one.sequence >= last or one.fault for one in readers))
    finally:
        watching.cancel()
    for reader, socket in zip(readers, sockets, strict=True):
        reader.is_over = True
        socket.close()
    return Run(quiet, beside, readers, max(largest) - before)


async def _trade(exchange: Target, traders: list[Trader], seconds: int, number: int) -> Orders:
    """So many seconds of orders at their intended times, until all are answered. Raises TimeoutError."""
    wanted = wishes(seconds * UPDATES_PER_SECOND, seed=11 + number)
    orders, marker = Orders(wanted), f"{traders[0].user_id}-feed{number}"
    sockets = [await _opened(exchange, orders.received, orders.lost) for _ in traders]
    for socket, trader in zip(sockets, traders, strict=True):
        socket.write([frame(_encode({"op": "auth", "id": 0, "token": trader.token}))])
    await _until(lambda: orders.greeted == len(sockets))
    frames = [
        frame(_encode(["o", place, one.market, one.side, one.price_micro, one.quantity_wh, f"{marker}-{place}", 0]))
        for place, one in enumerate(wanted)
    ]
    gap_ns, start_ns, place = SECOND_NS // UPDATES_PER_SECOND, perf_counter_ns() + SECOND_NS // 10, 0

    def tick() -> None:
        nonlocal place
        while place < len(frames) and start_ns + place * gap_ns <= perf_counter_ns():
            orders.intended_ns[place] = start_ns + place * gap_ns
            sockets[place % len(sockets)].write([frames[place]])
            place += 1
        if place < len(frames):
            metronome.at(start_ns + place * gap_ns)

    metronome = Metronome(tick)
    try:
        with undisturbed():
            metronome.at(start_ns)
            await _until(lambda: orders.answers == len(frames) or bool(orders.fault), seconds + WAIT_SECONDS_MAX)
    finally:
        metronome.close()
    orders.is_over = True
    for socket in sockets:
        socket.close()
    return orders


async def _opened(exchange: Target, received: Callable[[Socket, bytes], None], lost: Callable[[], None]) -> Socket:
    parts_ = urlsplit(exchange.url)
    host, port = parts_.hostname or "127.0.0.1", parts_.port or 80
    make = partial(Socket, f"{host}:{port}", received, lost)
    _, socket = await asyncio.get_running_loop().create_connection(make, host, port)
    await socket.opened
    return socket


async def _until(holds: Callable[[], bool], seconds_max: float = WAIT_SECONDS_MAX) -> None:
    async with asyncio.timeout(seconds_max):
        while not holds():  # noqa: ASYNC110 - looked at now and then, so that it costs those measured nothing
            await asyncio.sleep(0.05)


async def _watch(data_dir: Path | None, largest: list[float]) -> None:
    while True:
        largest.append(_gateway_mb(data_dir))
        await asyncio.sleep(1)


def _gateway_mb(data_dir: Path | None) -> float:
    """Resident; 0 where only the address is known."""
    if data_dir is None:
        return 0.0
    return sum(process.memory_info().rss for name, process in parts(data_dir) if name == "gateway") / MB


if __name__ == "__main__":
    main()
