"""What one durable commit costs in bare PostgreSQL: the floor under every acknowledgement.

Why it matters: an answer means durable, so no order is faster than a commit of one row, and no market faster than the
commits that its orders share. COPY by asyncpg, one connection, fsync on, in the exchange's own server: 1 row and 200
rows of 100 bytes in each commit.

Run:  python -m bench.bench_commit            the canonical size; quote only these numbers
      python -m bench.bench_commit --smoke    small; run by the tests, so that it cannot rot
"""

import contextlib
import random
import secrets
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns

import asyncpg
import uvloop
from msgspec import Struct

from bench.installation import arguments
from bench.machine import Result, machine, percentile, record, times
from persistence.embedded import EmbeddedPostgres

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
    with _server(given.data_dir) as dsn:
        found = [uvloop.run(_measure(dsn, rows, commits)) for rows in SIZES]
    print(f"machine: {machine()}")
    for one in found:
        shown = times(one.times_ns)
        print(f"rows={one.rows} commits={commits} checksum={one.checksum:08x} rate={one.rate}/s {shown}")
        if not given.smoke:
            bench, p50_ms = f"bare COPY, rows={one.rows}", percentile(one.times_ns, 500) / 1e6
            record([Result(bench, "rate", one.rate, "rows/s"), Result(bench, "p50", round(p50_ms, 3), "ms")])


@contextlib.contextmanager
def _server(data_dir: Path | None) -> Iterator[str]:
    """The server of the exchange, or one for the time being."""
    if data_dir is not None:
        yield EmbeddedPostgres(data_dir).address
        return
    with tempfile.TemporaryDirectory(prefix="wb-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # the server runs as another user when root starts it
        server = EmbeddedPostgres(Path(folder))
        try:
            yield server.start()
        finally:
            server.stop()


async def _measure(dsn: str, rows: int, commits: int) -> Measured:
    """Raises SystemExit when the table does not hold what was committed."""
    random_, table = random.Random(7), f"bench_{secrets.token_hex(6)}"
    wanted = [[(one * rows + row, random_.randbytes(ROW_BYTES)) for row in range(rows)] for one in range(commits)]
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE TABLE {table} (number bigint PRIMARY KEY, content bytea NOT NULL)")
        await connection.copy_records_to_table(table, records=[(-1, b"")])
        times_ns, started_ns = [], perf_counter_ns()
        for records in wanted:
            begun_ns = perf_counter_ns()
            await connection.copy_records_to_table(table, records=records)
            times_ns.append(perf_counter_ns() - begun_ns)
        seconds = (perf_counter_ns() - started_ns) / 1e9
        stored = await connection.fetch(f"SELECT content FROM {table} WHERE number >= 0 ORDER BY number")  # noqa: S608 - our own name
    finally:
        await connection.execute(f"DROP TABLE IF EXISTS {table}")
        await connection.close()
    checksum = zlib.crc32(b"".join(row[0] for row in stored))
    if checksum != zlib.crc32(b"".join(content for records in wanted for _, content in records)):
        raise SystemExit("the table does not hold what was committed")
    return Measured(rows, seconds, sorted(times_ns), checksum)


if __name__ == "__main__":
    main()
