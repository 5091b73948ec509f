"""How many signed readings per second become durable over HTTP, and what orders feel of it.

Why it matters: a campus has thousands of meters, and after an outage all of them speak at once. A reading is parsed,
its signature verified, it is judged and committed, and windows are closed and credited meanwhile, all of it by this
machine. Readings are of one minute each, in lists of 500 that every meter has signed for itself, and in batches of
10,000 that a head-end has signed once. Beside them stand what nobody can do without: COPY into such a table, and
Ed25519 by itself.

Run:  python -m bench.bench_readings            the canonical size; quote only these numbers
      python -m bench.bench_readings --smoke    small; run by the tests, so that it cannot rot
"""

import asyncio
import contextlib
import itertools
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Final

import asyncpg
import msgspec
import psutil
import uvloop
from msgspec import Struct
from nacl.bindings import crypto_sign_open

from actors.clock import clock_us
from bench.client import AckLog, Trader
from bench.closed import closed_loop
from bench.http import HttpPool, request_head, request_tail
from bench.installation import Target, arguments, settle, target
from bench.load import Plan
from bench.load import run as send_orders
from bench.machine import Result, machine, percentile, record, times
from bench.meters import Device, Said, found_head_end, install
from bench.people import PLENTY, pool_of, seeded
from bench.processes import parts
from config.load import load
from engine.metering.readings import Stored, signed_bytes
from engine.units import SECOND_US
from persistence.embedded import EmbeddedPostgres

GOAL_SIGNED, GOAL_BATCHED, GOAL_P99_MS = 10_000, 100_000, 50.0
LANES: Final = 4  # connections, each with meters of its own, because a meter's readings keep their order
READING_S: Final = 60
PACED_RATE, PACED_READINGS, PACED_LANES = 50, 100, 16
ORDERS_RATE: Final = 200
VERIFIED_PER_METER: Final = 80
MSGPACK: Final = b"application/msgpack"


class Size(Struct, frozen=True):
    """Requests are per lane; a request has `readings`, of so many meters."""

    signed: tuple[int, int, int]
    batched: tuple[int, int, int]
    paced_seconds: int
    orders_seconds: int
    beside: int  # requests of batches per lane, while orders come


CANONICAL: Final = Size((40, 500, 25), (10, 10_000, 50), 10, 8, 20)
SMOKE: Final = Size((2, 20, 4), (2, 60, 6), 1, 1, 2)


class Sums(Struct):
    accepted: int
    duplicates: int
    rejected: int


class Round(Struct):
    """seconds: until the last answer; cpu_us: of one reading, by part of the exchange."""

    readings: int
    seconds: float
    latencies_ns: list[int]
    cpu_us: dict[str, float]
    generator_us: float
    checksum: int

    @property
    def rate(self) -> float:
        return self.readings / self.seconds


class Lane:
    """Some meters that speak in turn, minute by minute, over the last days."""

    def __init__(self, devices: Sequence[Device], first_us: int) -> None:
        self.devices, self._next_us, self.checksum = devices, first_us, 0  # of what was said

    def says(self, count: int) -> list[Said]:
        """So many readings, of all meters alike."""
        said = []
        for minute in range(count // len(self.devices)):
            start_us = self._next_us + minute * READING_S * SECOND_US
            said += [
                device.says(start_us, (place + minute) % 7, (place * 3 + minute) % 90, READING_S)
                for place, device in enumerate(self.devices)
            ]
        self._next_us += count // len(self.devices) * READING_S * SECOND_US
        amounts = b"".join(b"%d %d " % (one.reading.import_wh, one.reading.export_wh) for one in said)
        self.checksum = zlib.crc32(amounts, self.checksum)
        return said


_sums = msgspec.json.Decoder(Sums).decode
_pack = msgspec.msgpack.Encoder().encode


def main() -> None:
    given = arguments(__doc__).parse_args()
    size = SMOKE if given.smoke else CANONICAL
    with target(given) as exchange:
        if exchange.data_dir is None:
            raise SystemExit("needs --data-dir: only an admin founds a head-end")
        uvloop.run(_measure(exchange, exchange.data_dir, size, smoke=given.smoke))


async def _measure(exchange: Target, data_dir: Path, size: Size, *, smoke: bool) -> None:
    """First what waits for answers, then what floods: the chain mints for a minute what the floods made."""
    print(f"machine: {machine()}")
    owner = (await seeded(exchange.url, data_dir, 1, PLENTY))[0]
    admin = (await seeded(exchange.url, data_dir, 1, (), "admin"))[0]
    traders = await seeded(exchange.url, data_dir, 2, PLENTY)
    plan = Plan(exchange.url, ORDERS_RATE, size.orders_seconds, 2)
    pool, host = pool_of(exchange.url)

    if not smoke:
        settle()
    quiet = await send_orders(plan, AckLog(), traders)
    print(f"orders alone: {times(quiet.latencies_ns)}")
    paced = await _paced(owner, host, size.paced_seconds, pool, smoke=smoke)
    print(f"paced: {PACED_RATE * PACED_READINGS} readings/s in lists of {PACED_READINGS}: {times(paced)}")

    signed = await _lanes(owner, size.signed[2], LANES)
    requests = [[_list(owner, host, lane.says(size.signed[1])) for _ in range(size.signed[0])] for lane in signed]
    one = await _round(exchange, data_dir, signed, requests, size.signed[1], smoke=smoke)
    _print("signed", one)

    batched = await _lanes(owner, size.batched[2], LANES)
    head_end = await found_head_end(admin, pool, host, [device for lane in batched for device in lane.devices])
    head = request_head("POST", "/api/v1/readings?quiet=1", host, head_end.token)

    def batches(count: int) -> list[list[bytes]]:
        return [
            [head + request_tail(_pack(head_end.batch(lane.says(size.batched[1]))), MSGPACK) for _ in range(count)]
            for lane in batched
        ]

    many = await _round(exchange, data_dir, batched, batches(size.batched[0]), size.batched[1], smoke=smoke)
    _print("batched", many)
    copy_rate, verify_rate = await _bare(data_dir, many.readings, signed[0])
    print(f"bare: COPY {copy_rate}/s, Ed25519 {verify_rate}/s on one core")
    print(f"ratio: batched/COPY={many.rate / copy_rate:.2f} signed/Ed25519={one.rate / verify_rate:.2f}")

    bodies = batches(size.beside)
    if not smoke:
        settle()
    flood = asyncio.create_task(_flood(exchange.url, bodies))
    beside = await send_orders(plan, AckLog(), traders)
    beside_rate = await _until_over(flood, size)
    print(f"orders beside {beside_rate:.0f} readings/s: {times(beside.latencies_ns)}")
    if quiet.errors or beside.errors:
        raise SystemExit("orders failed")
    if not smoke:
        p99 = percentile(paced, 990) / 1e6
        record(
            [
                Result("readings signed", "rate", int(one.rate), "/s", GOAL_SIGNED, one.rate >= GOAL_SIGNED),
                Result("readings batched", "rate", int(many.rate), "/s", GOAL_BATCHED, many.rate >= GOAL_BATCHED),
                Result("readings batched", "ratio to COPY", round(many.rate / copy_rate, 3), ""),
                Result("readings signed", "ratio to Ed25519", round(one.rate / verify_rate, 3), ""),
                Result("100 readings at 5,000/s", "p99", round(p99, 2), "ms", GOAL_P99_MS, p99 <= GOAL_P99_MS),
                Result("orders alone", "p99", round(quiet.quantile_ms(990), 2), "ms"),
                Result("orders beside readings", "p99", round(beside.quantile_ms(990), 2), "ms"),
            ]
        )


async def _lanes(owner: Trader, meters: int, count: int) -> list[Lane]:
    """Meters whose keys are proved, with their place in time."""
    first_us = (clock_us() // (900 * SECOND_US) - 6 * 96) * 900 * SECOND_US
    lanes = []
    for _ in range(count):
        lane = Lane([await install(owner, load().default_zone) for _ in range(meters)], first_us)
        await owner.call("POST", "/readings", [said.shown() for said in lane.says(meters)])
        lanes.append(lane)
    return lanes


def _list(owner: Trader, host: str, readings: Sequence[Said]) -> bytes:
    body = msgspec.json.encode([said.shown() for said in readings])
    return request_head("POST", "/api/v1/readings?quiet=1", host, owner.token) + request_tail(body)


async def _round(
    exchange: Target, data_dir: Path, lanes: list[Lane], requests: list[list[bytes]], readings: int, *, smoke: bool
) -> Round:
    """The requests of all lanes at once. Raises SystemExit unless every reading was accepted."""
    if not smoke:
        settle()
    before, own_ns, began_ns = cpu_seconds(data_dir), process_time_ns(), perf_counter_ns()
    done = await asyncio.gather(*(closed_loop(exchange.url, lane, 1) for lane in requests))
    elapsed_ns, own_ns = perf_counter_ns() - began_ns, process_time_ns() - own_ns
    after = cpu_seconds(data_dir)
    total = sum(map(len, requests)) * readings
    for body in itertools.chain.from_iterable(one.bodies for one in done):
        if _sums(body) != Sums(readings, 0, 0):
            raise SystemExit(f"not every reading was accepted: {body[:500]!r}")
    return Round(
        total,
        elapsed_ns / 1e9,
        sorted(itertools.chain.from_iterable(one.latencies_ns for one in done)),
        {name: (after[name] - before.get(name, 0.0)) * 1e6 / total for name in sorted(after)},
        own_ns / 1e3 / total,
        zlib.crc32(b"".join(lane.checksum.to_bytes(4, "big") for lane in lanes)),
    )


async def _flood(url: str, requests: list[list[bytes]]) -> tuple[int, float]:
    began_ns = perf_counter_ns()
    done = await asyncio.gather(*(closed_loop(url, lane, 1) for lane in requests))
    return sum(len(one.bodies) for one in done), (perf_counter_ns() - began_ns) / 1e9


async def _until_over(flood: "asyncio.Task[tuple[int, float]]", size: Size) -> float:
    requests, seconds = await flood
    return requests * size.batched[1] / seconds


async def _paced(owner: Trader, host: str, seconds: int, pool: HttpPool, *, smoke: bool) -> list[int]:
    """Latencies from the intended send times, ascending, of lists of 100 readings."""
    lanes = await _lanes(owner, PACED_READINGS // 10, PACED_LANES)
    bodies = [_list(owner, host, lanes[n % PACED_LANES].says(PACED_READINGS)) for n in range(seconds * PACED_RATE)]
    if not smoke:
        settle()
    began_ns, latencies_ns = perf_counter_ns() + 50_000_000, list[int]()

    async def send(number: int, body: bytes) -> None:
        due_ns = began_ns + number * 1_000_000_000 // PACED_RATE
        await asyncio.sleep((due_ns - perf_counter_ns()) / 1e9)
        answer = await pool.request(body)
        latencies_ns.append(perf_counter_ns() - due_ns)
        if answer.status != 200 or _sums(answer.body) != Sums(PACED_READINGS, 0, 0):
            raise SystemExit(f"not every reading was accepted: {answer.body[:500]!r}")

    await asyncio.gather(*(send(number, body) for number, body in enumerate(bodies)))
    return sorted(latencies_ns)


async def _bare(data_dir: Path, rows: int, lane: Lane) -> tuple[int, int]:
    """Rows per second of COPY into a table with the readings' columns and keys; verifications per second."""
    columns = [*Stored.__struct_fields__, "signature"]
    now_us = clock_us()
    records = [
        (n % 200, 1, n // 200, now_us + n, now_us + n + 60, 1, 2, None, None, None, 0, now_us, None)
        for n in range(rows)
    ]
    connection = await asyncpg.connect(EmbeddedPostgres(data_dir).address)
    try:
        await connection.execute("CREATE TABLE bench_readings (LIKE readings INCLUDING ALL)")
        began_ns = perf_counter_ns()
        for first in range(0, rows, 10_000):
            some = records[first : first + 10_000]
            await connection.copy_records_to_table("bench_readings", records=some, columns=columns)
        copy_seconds = (perf_counter_ns() - began_ns) / 1e9
    finally:
        await connection.execute("DROP TABLE IF EXISTS bench_readings")
        await connection.close()
    keys = {uuid.UUID(device.meter_id).bytes: device.public_key for device in lane.devices}
    claims = [
        (said.signature + signed_bytes(said.reading), keys[said.reading.meter_id])
        for said in lane.says(VERIFIED_PER_METER * len(lane.devices))
    ]
    began_ns = perf_counter_ns()
    for message, key in claims:
        crypto_sign_open(message, key)
    return int(rows / copy_seconds), int(len(claims) * 1e9 / (perf_counter_ns() - began_ns))


def cpu_seconds(data_dir: Path) -> dict[str, float]:
    """Seconds of processor time that each part of the exchange has used."""
    used: dict[str, float] = {}
    for name, process in parts(data_dir):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent = process.cpu_times()
            used[name] = used.get(name, 0.0) + spent.user + spent.system
    return used


def _print(name: str, one: Round) -> None:
    shares = " ".join(f"{part}={us:.1f}" for part, us in _largest(one.cpu_us))
    print(
        f"{name}: acknowledged={one.readings} checksum={one.checksum:08x} rate={one.rate:.0f}/s, "
        f"of each request {times(one.latencies_ns)}"
    )
    print(f"{name}: us of CPU per reading: {shares} generator={one.generator_us:.1f}")


def _largest(cpu_us: dict[str, float]) -> Iterator[tuple[str, float]]:
    return ((name, us) for name, us in sorted(cpu_us.items(), key=lambda one: -one[1]) if us >= 0.1)


if __name__ == "__main__":
    main()
