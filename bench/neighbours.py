"""How much longer an order takes in a quiet market while another one that shares its process is busy.

Why it matters: markets that share a process share its event loop (docs/decisions/0053); this says from which traffic on
a market is better moved out. A few orders a second go to one market, many to another; once with both in a process that
twenty share, once with each in a process of its own, which is what sharing the machine costs anyway. Latency counts
from the intended send time.

Run:  python -m bench.neighbours            an exchange of its own; markets cannot be removed from one
      python -m bench.neighbours --smoke    small; run by the tests, so that it cannot rot
"""

import asyncio
import zlib
from collections.abc import Sequence

import uvloop

from bench.client import AckLog, Trader
from bench.installation import Target, arguments, settle, target
from bench.load import Outcome, Plan, run
from bench.machine import machine, times
from bench.people import PLENTY, people, seeded
from bench.scale import add_markets

MARKETS = 20
RATES = (0, 50, 200, 1_000)
SECONDS = 10.0
QUIET_RATE, QUIET_USERS, BUSY_USERS = 50, 4, 32
PRICE_MICRO = 10_250_000  # what a market takes for its price before anybody has traded there
SETTLE_SECONDS_MAX = 5.0


async def side_by_side(
    url: str, symbols: tuple[str, str], rate: int, seconds: float, traders: Sequence[Trader]
) -> tuple[Outcome, AckLog, Outcome | None]:
    """Orders in the first market, with what they were answered, while so many a second go to the second."""
    quiet, busy = symbols
    few, many = list(traders[:QUIET_USERS]), list(traders[QUIET_USERS:])
    plan = Plan(url, QUIET_RATE, seconds, markets=(quiet,), connections=8, cancel_percent=0, price_micro=PRICE_MICRO)
    load = Plan(url, rate, seconds, markets=(busy,), price_micro=PRICE_MICRO, seed=11)
    log = AckLog()
    if not rate:
        return await run(plan, log, few), log, None
    async with asyncio.TaskGroup() as tasks:
        beside = tasks.create_task(run(load, AckLog(), many))
        measured = tasks.create_task(run(plan, log, few))
    return measured.result(), log, beside.result()


async def compare(exchange: Target, *, smoke: bool) -> int:
    """Print what each arrangement and each rate gave; how many requests failed."""
    assert exchange.data_dir is not None
    admin = (await seeded(exchange.url, exchange.data_dir, 1, (), "admin"))[0]
    traders = await people(exchange.url, exchange.data_dir, QUIET_USERS + BUSY_USERS, PLENTY)
    count = 2 if smoke else MARKETS
    pairs = {f"{count} in one process": await pair(admin, count, shared=True)}
    if not smoke:
        pairs["each in its own"] = await pair(admin, 2, shared=False)
    errors, seconds = 0, 1.0 if smoke else SECONDS
    for rate in RATES[:2] if smoke else RATES:
        for name, symbols in pairs.items():  # in turns: whatever else the machine does, it does to both
            if not smoke:
                await asyncio.to_thread(settle, seconds_max=SETTLE_SECONDS_MAX)
            measured, log, beside = await side_by_side(exchange.url, symbols, rate, seconds, traders)
            errors += _not_taken(measured) + (beside.errors if beside is not None else 0)
            reached = 0.0 if beside is None else beside.rate
            print(f"beside {rate:>5}/s, {name} (reached {reached:.0f}): {times(measured.latencies_ns)} {_work(log)}")
    return errors


async def pair(admin: Trader, count: int, *, shared: bool) -> tuple[str, str]:
    """The quiet one and the busy one of so many new markets."""
    quiet, busy, *_ = await add_markets(admin, count, shared=shared)
    return quiet, busy


def _not_taken(outcome: Outcome) -> int:
    """Every order of the quiet market is a good one."""
    if set(outcome.statuses) != {"201"}:
        print(f"  answers that were not expected: {dict(outcome.statuses)}")
    return sum(outcome.statuses.values()) - outcome.statuses["201"]


def _work(log: AckLog) -> str:
    """The quiet market's orders: the same in every line, whatever goes on beside them."""
    quantities = sorted(ack.quantity for ack in log.acknowledgements)
    return f"acknowledged={len(quantities)} checksum={zlib.crc32(''.join(quantities).encode()):08x}"


def main() -> None:
    given = arguments(__doc__).parse_args()
    print(f"machine: {machine()}")
    with target(given) as exchange:
        if exchange.data_dir is None:
            raise SystemExit("needs --data-dir: it makes markets as an admin of that exchange")
        errors = uvloop.run(compare(exchange, smoke=given.smoke))
    if errors:
        raise SystemExit(f"{errors} requests failed")


if __name__ == "__main__":
    main()
