"""How long people wait for their days and months: energy queries over 90 days of 15-minute data of 1,000 meters.

Why it matters: reports and analytics are asked by everybody, mornings and at the end of a month, while readings arrive
and orders wait for the same server. In a database of the bench's own, in the exchange's own server, one connection,
queries in turn for one household after another; each query's rows are fetched, so the time is what the gateway waits.
Loading by COPY, as the aggregators write.

Run:  python -m bench.bench_energy_queries            the canonical size; quote only these numbers
      python -m bench.bench_energy_queries --smoke    small; run by the tests, so that it cannot rot
"""

import asyncio
import itertools
import random
import zlib
from collections.abc import Awaitable, Callable, Iterator
from time import perf_counter_ns
from typing import Any, Final

import uvloop
from msgspec import Struct

from bench.database import empty_database, server
from bench.installation import arguments, settle
from bench.machine import Result, machine, percentile, record, times
from engine.units import FOREVER_US, SECOND_US
from persistence import migrate
from persistence.analytics import PostgresAnalytics
from persistence.energy import PostgresEnergy
from persistence.postgres import Pool, open_pool

WINDOW_US: Final = 900 * SECOND_US
DAY_US: Final = 86_400 * SECOND_US
START_US: Final = 20_000 * DAY_US  # some day in 2024
ZONES: Final = 4
FIRST_OWNER: Final = 1_001
GOAL_MS: Final = 50.0
WINDOW_COLUMNS: Final = (
    "meter", "start_us", "owner_id", "zone", "import_wh", "export_wh", "covered_us", "credited_wh", "retired_wh",
    "closed_us",
)  # fmt: skip

ADD_ZONES: Final = "INSERT INTO zones SELECT 'Z' || n, 'n' FROM generate_series(0, $1 - 1) n"
ADD_METERS: Final = """
    INSERT INTO meters (meter_id, serial, kind, rated_power_w, register_wh_max, created_us)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 'M' || n, 'prosumer', 10000, 1000000, 0
    FROM generate_series(1, $1) n
"""
ROLL_UP: Final = """
    INSERT INTO energy_rollups
    SELECT meter, s.seconds, start_us / (s.seconds * 1000000::bigint) * (s.seconds * 1000000::bigint) AS step_us,
        owner_id, zone, sum(import_wh), sum(export_wh), 0, 0, sum(credited_wh), sum(retired_wh), max(export_wh) * 4
    FROM energy_windows
    CROSS JOIN (VALUES (3600), (86400)) AS s (seconds)
    WHERE start_us >= $1
        AND start_us < $2
    GROUP BY meter, s.seconds, step_us, owner_id, zone
    ORDER BY step_us, s.seconds, meter
"""


class Size(Struct, frozen=True):
    meters: int
    days: int
    asked: int  # how often each query is asked


class Measured(Struct):
    """times_ns ascending; checksum of all rows in the order of the questions."""

    name: str
    times_ns: list[int]
    checksum: int


def main() -> None:
    given = arguments(__doc__).parse_args()
    size = Size(20, 31, 20) if given.smoke else Size(1_000, 90, 1_000)
    with server(given.data_dir) as address:
        if not given.smoke:
            settle()
        found = uvloop.run(_run(address, size))
    print(f"machine: {machine()}")
    results = []
    for one in found:
        print(f"{one.name}: asked={len(one.times_ns)} checksum={one.checksum:08x} {times(one.times_ns)}")
        p95_ms = percentile(one.times_ns, 950) / 1e6
        results.append(Result(f"energy queries, {one.name}", "p95", round(p95_ms, 2), "ms", GOAL_MS, p95_ms <= GOAL_MS))
    print(f"slowest p95: {max(one.value for one in results):.2f} ms, goal {GOAL_MS:g} ms")
    if not given.smoke:
        record(results)


async def _run(address: str, size: Size) -> list[Measured]:
    async with empty_database(address) as dsn:
        await migrate.up(dsn)
        pool = await open_pool(dsn, 1, "bench")
        try:
            began = perf_counter_ns()
            rows = await _load(pool, size)
            print(f"loaded: windows={rows} of {size.meters} meters in {(perf_counter_ns() - began) / 1e9:.1f} s")
            return [await _measure(name, ask, size) for name, ask in _questions(pool, size)]
        finally:
            await pool.close()


async def _load(pool: Pool, size: Size) -> int:
    """Windows day by day with their rollups, as they come; then statistics, as the server keeps them by itself."""
    dice, rows = random.Random(11), 0
    await pool.execute(ADD_ZONES, ZONES)
    await pool.execute(ADD_METERS, size.meters)
    for day in range(size.days):
        records = list(_windows(day, size.meters, dice))
        await pool.copy_records_to_table("energy_windows", records=records, columns=WINDOW_COLUMNS, timeout=120)
        await pool.execute(ROLL_UP, START_US + day * DAY_US, START_US + (day + 1) * DAY_US)
        rows += len(records)
    await pool.execute("SET statement_timeout = 0")
    await pool.execute("VACUUM ANALYZE energy_windows", timeout=600)
    await pool.execute("VACUUM ANALYZE energy_rollups", timeout=600)
    return rows


def _windows(day: int, meters: int, dice: random.Random) -> Iterator[tuple[Any, ...]]:
    """A day of all meters, window after window: sun by day, use always."""
    for quarter, meter in itertools.product(range(96), range(1, meters + 1)):
        start_us = START_US + day * DAY_US + quarter * WINDOW_US
        sun = max(0, 48 - abs(quarter - 48)) if 24 <= quarter <= 72 else 0
        export_wh, import_wh = sun * dice.randrange(20), dice.randrange(200)
        retired_wh = min(export_wh, import_wh)
        zone = f"Z{meter % ZONES}"
        yield (
            meter, start_us, FIRST_OWNER + meter - 1, zone, import_wh, export_wh, WINDOW_US, export_wh, retired_wh,
            start_us + 2 * WINDOW_US,
        )  # fmt: skip


def _questions(pool: Pool, size: Size) -> list[tuple[str, Callable[[int], Awaitable[Any]]]]:
    """What is asked for the n-th household, of a day or a month that its number chooses."""
    energy, analytics = PostgresEnergy(pool), PostgresAnalytics(pool)
    end_us = START_US + size.days * DAY_US

    def owner(number: int) -> int:
        return FIRST_OWNER + number % size.meters

    def meter(number: int) -> int:
        return 1 + number % size.meters

    def day(number: int) -> tuple[int, int]:
        first = START_US + number * 7 % size.days * DAY_US
        return first, first + DAY_US

    def month(number: int) -> tuple[int, int]:
        first = START_US + number * 7 % (size.days - 29) * DAY_US
        return first, first + 30 * DAY_US

    def days_of(number: int) -> list[int]:
        first, last = month(number)
        return list(range(first, last + 1, DAY_US))

    return [
        ("day of a meter, by quarters", lambda n: energy.series(meter(n), *day(n), FOREVER_US, 900, 1_000)),
        ("day of a meter, by hours", lambda n: energy.series(meter(n), *day(n), FOREVER_US, 3_600, 1_000)),
        ("month of a meter, by days", lambda n: energy.series(meter(n), *month(n), FOREVER_US, 86_400, 1_000)),
        ("month of a meter, by days, as known before",
         lambda n: energy.series(meter(n), *month(n), FOREVER_US - 1, 86_400, 1_000)),
        ("balance of a day", lambda n: energy.sums(owner(n), *day(n))),
        ("balance of a month", lambda n: energy.sums(owner(n), *month(n))),
        ("daily report of a month", lambda n: analytics.energy_parts(owner(n), days_of(n))),
        ("monthly report of 90 days", lambda n: analytics.energy_parts(owner(n), _thirds(size.days))),
        ("self-consumption of a month", lambda n: analytics.own_windows(owner(n), *month(n))),
        ("flow of a zone, a day by hours", lambda n: analytics.zone_flow(f"Z{n % ZONES}", *day(n), 3_600)),
        ("flow of a zone, a month by days", lambda n: analytics.zone_flow(f"Z{n % ZONES}", *month(n), 86_400)),
        ("flow of a zone now", lambda n: analytics.zone_now(f"Z{n % ZONES}", end_us - 4 * WINDOW_US)),
        ("peers of a month", lambda n: _sorted(analytics.zone_owners(f"Z{n % ZONES}", *month(n)))),
    ]  # fmt: skip


def _thirds(days: int) -> list[int]:
    return [START_US + days * place // 3 * DAY_US for place in range(4)]


async def _sorted(answer: Awaitable[dict[int, tuple[int, int]]]) -> Any:
    return sorted((await answer).items())


async def _measure(name: str, ask: Callable[[int], Awaitable[Any]], size: Size) -> Measured:
    """Raises SystemExit when a question has no answer."""
    times_ns, checksum = [], 0
    await ask(0)  # the first one prepares the statement
    for number in range(size.asked):
        begun_ns = perf_counter_ns()
        rows = await ask(number)
        times_ns.append(perf_counter_ns() - begun_ns)
        if not rows:
            raise SystemExit(f"{name}: nothing was found")
        checksum = zlib.crc32(repr(rows).encode(), checksum)
        await asyncio.sleep(0)
    return Measured(name, sorted(times_ns), checksum)


if __name__ == "__main__":
    main()
