"""What a market costs while nothing happens in it: memory, processes, sessions of the database, and processor time.

Why it matters: it says how many markets fit on a machine. So many are made in an exchange that runs, and what all
processes of each part have afterwards is held against what they had before. docs/scaling.md has the figures.

Run:  python -m bench.scale --markets 20                 an exchange of its own; markets cannot be removed from one
      python -m bench.scale --markets 100 --shared       those that share processes
"""

import asyncio
import secrets
import time
from pathlib import Path

import asyncpg
import uvloop
from msgspec import Struct

from bench.bench_memory import MB, measure
from bench.bench_readings import cpu_seconds
from bench.client import Trader
from bench.installation import Target, arguments, settle, target
from bench.machine import machine
from bench.people import seeded
from config.load import load
from persistence.embedded import EmbeddedPostgres

SETTLED_SECONDS, IDLE_SECONDS = 10.0, 20.0
READY_SECONDS_MAX = 300.0


class Cost(Struct, frozen=True):
    """Of the whole exchange. cpu: seconds of processor time per second, while nothing happens."""

    pss_mb: dict[str, float]
    processes: int
    sessions: int
    cpu: float


async def cost_of(data_dir: Path) -> Cost:
    """As it is after it has come to rest."""
    await asyncio.to_thread(settle)
    await asyncio.sleep(SETTLED_SECONDS)
    began, before = time.monotonic(), sum(cpu_seconds(data_dir).values())
    await asyncio.sleep(IDLE_SECONDS)
    used = sum(cpu_seconds(data_dir).values()) - before
    found = await asyncio.to_thread(measure, data_dir)
    connection = await asyncpg.connect(EmbeddedPostgres(data_dir).address)
    try:
        sessions = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        )
    finally:
        await connection.close()
    return Cost(
        {name: part.pss_mb for name, part in found.items()},
        sum(part.processes for part in found.values()),
        sessions,
        used / (time.monotonic() - began),
    )


async def add_markets(admin: Trader, count: int, *, shared: bool) -> list[str]:
    """Idle ones, and wait until each of them answers: their symbols. Raises TimeoutError."""
    marker = secrets.token_hex(2).upper()
    symbols = [f"IDLE{marker}{number}" for number in range(count)]
    for symbol in symbols:
        body = {"symbol": symbol, "zones": [load().default_zone], "mechanism": "continuous", "shared_process": shared}
        await admin.call("POST", "/markets", body)
    for symbol in symbols:
        await answers(admin, symbol)
    return symbols


async def answers(admin: Trader, symbol: str) -> None:
    """Wait until the market does. Raises TimeoutError."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    for _ in iter(lambda: time.monotonic() < deadline, False):
        if (await admin.send("GET", f"/markets/{symbol}/book")).status == 200:
            return
        await asyncio.sleep(0.5)
    raise TimeoutError(f"{symbol} does not answer")


async def compare(exchange: Target, data_dir: Path, count: int, *, shared: bool) -> tuple[Cost, Cost]:
    admin = (await seeded(exchange.url, data_dir, 1, (), "admin"))[0]
    before = await cost_of(data_dir)
    await add_markets(admin, count, shared=shared)
    return before, await cost_of(data_dir)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--markets", type=int, default=20)
    parser.add_argument("--shared", action="store_true", help="in shared processes")
    given = parser.parse_args()
    count = 1 if given.smoke else given.markets
    with target(given) as exchange:
        if exchange.data_dir is None:
            raise SystemExit("needs --data-dir: it looks at the processes of the exchange")
        before, after = uvloop.run(compare(exchange, exchange.data_dir, count, shared=given.shared))
    whole = [sum(one.pss_mb.values()) for one in (before, after)]
    print(f"machine: {machine()}")
    how = "sharing processes" if given.shared else "each in a process"
    print(f"{count} idle markets, {how}, beside two: PSS {whole[0]:.0f} -> {whole[1]:.0f} MB of {MB:,} bytes")
    for what, more, unit in (
        ("memory", whole[1] - whole[0], "MB"),
        ("processes", after.processes - before.processes, ""),
        ("sessions", after.sessions - before.sessions, ""),
        ("processor", (after.cpu - before.cpu) * 100, "% of a core"),
    ):
        print(f"each: {what:<12} {more / count:>7.2f} {unit}")
    for name in sorted(after.pss_mb):
        more = (after.pss_mb[name] - before.pss_mb.get(name, 0.0)) / count
        print(f"  {name:<12} {more:>6.1f} MB for each")


if __name__ == "__main__":
    main()
