"""What one durable commit costs in bare PostgreSQL: the floor under every acknowledgement.

Why it matters: an answer means durable, so no order is faster than a commit of one row, and no market faster than the
commits that its orders share. COPY by asyncpg, one connection, fsync on, in the exchange's own server: 1 row and 200
rows of 100 bytes in each commit.

Run:  python -m bench.bench_commit            the canonical size; quote only these numbers
      python -m bench.bench_commit --smoke    small; run by the tests, so that it cannot rot
"""

import random
import zlib
from time import perf_counter_ns

import asyncpg
import uvloop
from msgspec import Struct

from bench.database import empty_database, server
from bench.installation import arguments, settle
from bench.machine import Result, machine, percentile, record, times

ROW_BYTES = 100
SIZES = (1, 200)


class Measured(Struct):
    """times_ns ascending, of whole commits; checksum of what the table holds after them."""

    rows: int
    seconds: float
    times_ns: list[int]
    checksum: int

    @property
    def rate(self) -> int:
        return int(self.rows * len(self.times_ns) / self.seconds)


def main() -> None:
    given = arguments(__doc__).parse_args()
    commits = 20 if given.smoke else 1_000
    with server(given.data_dir) as address:
        if not given.smoke:
            settle()
        found = [uvloop.run(_measure(address, rows, commits)) for rows in SIZES]
    print(f"machine: {machine()}")
    for one in found:
        shown = times(one.times_ns)
        print(f"rows={one.rows} commits={commits} checksum={one.checksum:08x} rate={one.rate}/s {shown}")
        if not given.smoke:
            bench, p50_ms = f"bare COPY, rows={one.rows}", percentile(one.times_ns, 500) / 1e6
            record([Result(bench, "rate", one.rate, "rows/s"), Result(bench, "p50", round(p50_ms, 3), "ms")])


async def _measure(address: str, rows: int, commits: int) -> Measured:
    """Raises SystemExit when the table does not hold what was committed."""
    random_ = random.Random(7)
    wanted = [[(one * rows + row, random_.randbytes(ROW_BYTES)) for row in range(rows)] for one in range(commits)]
    async with empty_database(address) as dsn:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute("CREATE TABLE bare (number bigint PRIMARY KEY, content bytea NOT NULL)")
            await connection.copy_records_to_table("bare", records=[(-1, b"")])  # the first one looks the table up
            times_ns, started_ns = [], perf_counter_ns()
            for records in wanted:
                begun_ns = perf_counter_ns()
                await connection.copy_records_to_table("bare", records=records)
                times_ns.append(perf_counter_ns() - begun_ns)
            seconds = (perf_counter_ns() - started_ns) / 1e9
            stored = await connection.fetch("SELECT content FROM bare WHERE number >= 0 ORDER BY number")
        finally:
            await connection.close()
    checksum = zlib.crc32(b"".join(row[0] for row in stored))
    if checksum != zlib.crc32(b"".join(content for records in wanted for _, content in records)):
        raise SystemExit("the table does not hold what was committed")
    return Measured(rows, seconds, sorted(times_ns), checksum)


if __name__ == "__main__":
    main()
