"""How many trades per second are settled on the chain end to end, and what orders feel of it.

Why it matters: a trade is final for us at once, but its tokens move only when its settlement is on the chain, and the
chain must keep up with a busy day without orders waiting for it. People trade in batches; every 1,000 trades are netted
into one settlement, whose parts become transactions of the private chain. A settlement counts from the first trade
until its last part is confirmed, and until no fork can undo it, which on any Solana takes 32 slots more. Before that,
newcomers are registered and funded many times, which fills the queue: that is how fast it drains. In the end, orders at
a steady rate, alone and beside settlements.

Run:  python -m bench.bench_settlement            the canonical size; quote only these numbers
      python -m bench.bench_settlement --smoke    small; run by the tests, so that it cannot rot
"""

import asyncio
import zlib
from collections import Counter
from itertools import chain
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Final

import asyncpg
import msgspec
import uvloop
from msgspec import Struct

from bench.client import AckLog, Trader
from bench.closed import closed_loop
from bench.http import request_bytes
from bench.installation import Target, arguments, settle, target
from bench.load import Outcome, Plan
from bench.load import run as send_orders
from bench.machine import Result, machine, record
from bench.people import PLENTY, pool_of, seeded
from persistence.embedded import EmbeddedPostgres

GOAL_TRADES, GOAL_TRANSACTIONS = 1_000, 300
OF_A_SETTLEMENT: Final = 1_000  # config/default.toml: settlement_trades_max
BATCH: Final = 250
ORDERS_RATE: Final = 200
SECONDS_MAX: Final = 300.0

SETTLED = "SELECT coalesce(sum(trades), 0)::bigint, coalesce(max(number), 0) FROM settlements WHERE status = ANY($1)"
OPEN = "SELECT count(*) FROM chain_submissions WHERE state NOT IN ('finalized', 'parked')"
UNCONFIRMED = "SELECT count(*) FROM chain_submissions WHERE state NOT IN ('confirmed', 'finalized', 'parked')"
CONFIRMED = "SELECT count(*) FROM settlement_parts WHERE status IN (3, 4)"
DONE = """
    SELECT count(*), count(DISTINCT signature) FILTER (WHERE signature <> '')
    FROM chain_submissions
    WHERE number > $1
        AND state IN ('confirmed', 'finalized')
"""
NEWEST = "SELECT coalesce(max(number), 0) FROM chain_submissions"
TRANSACTIONS = """
    SELECT count(DISTINCT signature)
    FROM settlement_parts
    WHERE settlement > $1
"""


class Size(Struct, frozen=True):
    people: int
    deposits: int  # of each
    trades: int  # a multiple of OF_A_SETTLEMENT, so that all of them are settled whatever waited before
    orders_seconds: int


CANONICAL: Final = Size(40, 25, 40_000, 10)
SMOKE: Final = Size(4, 2, 1_000, 1)


def main() -> None:
    given = arguments(__doc__).parse_args()
    size = SMOKE if given.smoke else CANONICAL
    with target(given) as exchange:
        if exchange.data_dir is None:
            raise SystemExit("needs --data-dir: how far the chain is stands in the database")
        uvloop.run(_measure(exchange, exchange.data_dir, size, smoke=given.smoke))


async def _measure(exchange: Target, data_dir: Path, size: Size, *, smoke: bool) -> None:
    print(f"machine: {machine()}")
    connection = await asyncpg.connect(EmbeddedPostgres(data_dir).address)
    try:
        await _until(connection, OPEN, lambda count: count == 0)
        newest, began = await connection.fetchval(NEWEST), perf_counter()
        people = await seeded(exchange.url, data_dir, size.people, PLENTY * size.deposits)
        drained = await _drained(connection, newest, began)
        if not smoke:
            settle()
        trades = await _settled(exchange, connection, people, size.trades)
        quiet = await _orders(exchange, people, size.orders_seconds)
        await _trade(exchange, people, size.trades)
        began = await connection.fetchval(CONFIRMED)
        beside = await _orders(exchange, people, size.orders_seconds)
        parts = await connection.fetchval(CONFIRMED) - began
    finally:
        await connection.close()
    print(f"orders alone: {_latency(quiet)}; beside settlements, parts={parts}: {_latency(beside)}")
    if not smoke:
        rate, confirmed = trades
        record(
            [
                Result("settlement", "final", int(rate), "trades/s", GOAL_TRADES, rate >= GOAL_TRADES),
                Result("settlement", "confirmed", int(confirmed), "trades/s"),
                Result("chain queue", "rate", int(drained), "tx/s", GOAL_TRANSACTIONS, drained >= GOAL_TRANSACTIONS),
                Result("orders alone, settlement", "p99", round(quiet.quantile_ms(990), 2), "ms"),
                Result("orders beside settlements", "p99", round(beside.quantile_ms(990), 2), "ms"),
            ]
        )


async def _drained(connection: "asyncpg.Connection[Any]", newest: int, began: float) -> float:
    """Transactions per second, until nothing is left to be confirmed."""
    await _until(connection, UNCONFIRMED, lambda count: count == 0)
    seconds = perf_counter() - began
    [(effects, transactions)] = await connection.fetch(DONE, newest)
    print(f"queue: effects={effects} in {transactions} transactions, confirmed in {seconds:.1f} s")
    return float(transactions / seconds)


async def _settled(
    exchange: Target, connection: "asyncpg.Connection[Any]", people: list[Trader], count: int
) -> tuple[float, float]:
    """Trades per second from the first order until all are final, and until all are confirmed."""
    [(before, last)] = await connection.fetch(SETTLED, [1, 2, 3, 4, 5])
    began = perf_counter()
    checksum = await _trade(exchange, people, count)
    traded = perf_counter() - began
    await _until(connection, SETTLED, lambda trades: trades >= before + count, [3, 4])
    confirmed = perf_counter() - began
    await _until(connection, SETTLED, lambda trades: trades >= before + count, [4])
    final = perf_counter() - began
    transactions = await connection.fetchval(TRANSACTIONS, last)
    print(
        f"settled={count} checksum={checksum:08x} transactions={transactions}: traded in {traded:.1f} s, "
        f"confirmed in {confirmed:.1f} s, final in {final:.1f} s: {count / confirmed:.0f}/s, {count / final:.0f}/s"
    )
    return count / final, count / confirmed


async def _trade(exchange: Target, people: list[Trader], count: int) -> int:
    """Half of the people sell what the other half buys, batch by batch; CRC32 of how much each order was filled."""
    host, half = pool_of(exchange.url)[1], len(people) // 2
    checksum = 0
    for side, price, first in (("sell", "3.000", 0), ("buy", "3.600", half)):
        requests = [
            request_bytes(
                "POST",
                "/api/v1/orders/batch",
                host,
                people[first + number % half].token,
                msgspec.json.encode({"orders": [_order(side, price) for _ in range(min(BATCH, count))]}),
            )
            for number in range(-(-count // BATCH))
        ]
        done = await closed_loop(exchange.url, requests, 4)
        if done.statuses != Counter({200: len(requests)}):
            raise SystemExit(f"not every batch was answered with 200: {dict(done.statuses)}")
        results = [msgspec.json.decode(body)["results"] for body in done.bodies]
        if any("order_id" not in one for one in chain.from_iterable(results)):
            raise SystemExit(f"an order was refused: {results[0][0]}")
        filled = [one["filled_quantity"] for one in chain.from_iterable(results)]
        if side == "buy":
            checksum = zlib.crc32("".join(filled).encode())
    return checksum


async def _orders(exchange: Target, people: list[Trader], seconds: int) -> Outcome:
    """At a steady rate in another market, with latencies from the intended send times."""
    return await send_orders(Plan(exchange.url, ORDERS_RATE, seconds, markets=("RIVERSIDE",)), AckLog(), people)


def _order(side: str, price: str) -> dict[str, str]:
    return {"market": "CAMPUS", "side": side, "type": "limit", "price": price, "quantity": "0.010"}


def _latency(outcome: Outcome) -> str:
    return f"p50={outcome.quantile_ms(500):.2f}ms p99={outcome.quantile_ms(990):.2f}ms"


async def _until(connection: "asyncpg.Connection[Any]", sql: str, holds: Any, *values: Any) -> None:
    deadline = monotonic() + SECONDS_MAX
    while not holds(found := await connection.fetchval(sql, *values)):
        if monotonic() > deadline:
            raise SystemExit(f"not so after {SECONDS_MAX:g} s: {found}; {sql}")
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    main()
