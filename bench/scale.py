"""What a market costs while nothing happens in it: memory, processes, sessions of the database, and processor time.

Why it matters: it says how many markets fit on a machine. So many are made in an exchange that runs, and what all
processes of each part have afterwards is held against what they had before. Then, with --busy, so many more, each in a
process of its own, get orders, and the same is looked at while they do; `wattbook audit` has the last word.
docs/scaling.md has the figures.

Run:  python -m bench.scale --markets 20                 an exchange of its own; markets cannot be removed from one
      python -m bench.scale --markets 100 --shared       those that share processes
      python -m bench.scale --markets 200 --shared --busy 20
      python -m bench.scale --smoke                      one of each
"""

import asyncio
import secrets
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import uvloop
from msgspec import Struct

from bench.bench_memory import MB, measure
from bench.bench_readings import cpu_seconds
from bench.client import AckLog, Trader
from bench.installation import Target, arguments, audit, settle, target
from bench.load import Outcome, Plan, run
from bench.machine import machine, times
from bench.people import PLENTY, people, seeded
from config.load import load
from persistence.embedded import EmbeddedPostgres

READY_SECONDS_MAX = 300.0
USERS = 32
PRICE_MICRO = 10_250_000  # what a market takes for its price before anybody has traded there


class Pace(Struct, frozen=True):
    """Seconds: until it has come to rest; of looking at it; of load before that, while books and buffers grow."""

    settled: float = 10.0
    looked: float = 20.0
    warm_up: float = 10.0


BRIEF = Pace(settled=1.0, looked=2.0, warm_up=1.0)


class Cost(Struct, frozen=True):
    """Of the whole exchange. cpu: seconds of processor time per second."""

    pss_mb: dict[str, float]
    processes: int
    sessions: int
    cpu: float

    @property
    def whole_mb(self) -> float:
        return sum(self.pss_mb.values())


async def cost_at_rest(data_dir: Path, pace: Pace) -> Cost:
    """As it is after it has come to rest."""
    if pace is not BRIEF:
        await asyncio.to_thread(settle)
    await asyncio.sleep(pace.settled)
    return await cost_of(data_dir, pace.looked)


async def cost_of(data_dir: Path, looked_seconds: float) -> Cost:
    """Over the next seconds."""
    began, before = time.monotonic(), sum((await asyncio.to_thread(cpu_seconds, data_dir)).values())
    await asyncio.sleep(looked_seconds)
    used = sum((await asyncio.to_thread(cpu_seconds, data_dir)).values()) - before
    seconds = time.monotonic() - began
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
        used / seconds,
    )


async def add_markets(admin: Trader, count: int, *, shared: bool) -> list[str]:
    """So many, and wait until each of them answers: their symbols. Raises TimeoutError."""
    marker = secrets.token_hex(2).upper()
    symbols = [f"M{marker}{number}" for number in range(count)]
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


class Load(Struct):
    """What came of the orders, and what the exchange cost meanwhile."""

    outcome: Outcome
    cost: Cost


async def loaded(
    exchange: Target, data_dir: Path, symbols: Sequence[str], rate: int, log: AckLog, traders: list[Trader], pace: Pace
) -> Load:
    """So many orders a second, spread over these markets, until the exchange has been looked at."""
    seconds = pace.warm_up + pace.looked + pace.settled
    plan = Plan(exchange.url, rate, seconds, markets=tuple(symbols), price_micro=PRICE_MICRO)
    async with asyncio.TaskGroup() as tasks:
        load = tasks.create_task(run(plan, log, traders))
        await asyncio.sleep(pace.warm_up)
        cost = tasks.create_task(cost_of(data_dir, pace.looked))
    return Load(load.result(), cost.result())


def told(before: Cost, after: Cost, count: int) -> None:
    """What each of so many markets has added."""
    for what, more, unit in (
        ("memory", after.whole_mb - before.whole_mb, "MB"),
        ("processes", after.processes - before.processes, ""),
        ("sessions", after.sessions - before.sessions, ""),
        ("processor", (after.cpu - before.cpu) * 100, "% of a core"),
    ):
        print(f"each: {what:<12} {more / count:>7.2f} {unit}")
    for name in sorted(after.pss_mb):
        more = (after.pss_mb[name] - before.pss_mb.get(name, 0.0)) / count
        print(f"  {name:<12} {more:>6.1f} MB for each")


async def measured(
    exchange: Target, data_dir: Path, counts: tuple[int, int], rate: int, log: AckLog, pace: Pace, *, shared: bool
) -> Load | None:
    """Print what each of so many idle markets costs, and each of so many busy ones if any; what came of the load."""
    idle, busy = counts
    admin = (await seeded(exchange.url, data_dir, 1, (), "admin"))[0]
    before = await cost_at_rest(data_dir, pace)
    began = time.monotonic()
    await add_markets(admin, idle, shared=shared)
    made = time.monotonic() - began
    after = await cost_at_rest(data_dir, pace)
    how = "sharing processes" if shared else "each in a process"
    whole = f"PSS {before.whole_mb:.0f} -> {after.whole_mb:.0f} MB of {MB:,} bytes, made in {made:.0f} s"
    print(f"{idle} idle markets, {how}, beside two: {whole}")
    told(before, after, idle)
    if not busy:
        return None
    symbols = await add_markets(admin, busy, shared=False)
    traders = await people(exchange.url, data_dir, USERS, PLENTY)
    load = await loaded(exchange, data_dir, symbols, rate, log, traders, pace)
    whole = f"PSS {after.whole_mb:.0f} -> {load.cost.whole_mb:.0f} MB"
    print(f"{busy} busy markets, each in a process, beside those, {rate} orders a second in all: {whole}")
    told(after, load.cost, busy)
    cost = f"{load.cost.processes} processes, {load.cost.sessions} sessions, {load.cost.cpu:.2f} cores"
    print(f"all together: {load.cost.whole_mb:.0f} MB, {cost}")
    return load


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--markets", type=int, default=20)
    parser.add_argument("--shared", action="store_true", help="in shared processes")
    parser.add_argument("--busy", type=int, default=0, help="so many more, which get orders")
    parser.add_argument("--rate", type=int, default=200, help="orders a second, all busy markets together")
    given = parser.parse_args()
    idle, busy, rate = (1, 1, 20) if given.smoke else (given.markets, given.busy, given.rate)
    print(f"machine: {machine()}", flush=True)
    with target(given) as exchange, tempfile.TemporaryDirectory(prefix="wb-") as folder:
        if exchange.data_dir is None:
            raise SystemExit("needs --data-dir: it looks at the processes of the exchange")
        file = Path(folder) / "acknowledged.jsonl"
        log = AckLog(file)
        shared, pace = given.shared or given.smoke, BRIEF if given.smoke else Pace()
        load = uvloop.run(measured(exchange, exchange.data_dir, (idle, busy), rate, log, pace, shared=shared))
        log.close()
        if load is not None:
            judge(exchange.data_dir, load.outcome, log, file)


def judge(data_dir: Path, outcome: Outcome, log: AckLog, file: Path) -> None:
    """Ends the program when a request failed, or the audit finds something."""
    print(
        f"{outcome.rate:.0f} answers a second, {dict(sorted(outcome.statuses.items()))} {times(outcome.latencies_ns)}"
    )
    audited = audit(data_dir, file)
    print(f"{log.count} acknowledgements; audit: {' '.join(audited.stdout.split())}")
    if audited.returncode or outcome.errors:
        raise SystemExit(f"{outcome.errors} requests failed for good; {audited.stderr}")


if __name__ == "__main__":
    main()
