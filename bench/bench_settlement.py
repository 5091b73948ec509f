"""How many trades per second are settled on the chain end to end, and what orders feel of it.

Why it matters: a trade is final for us at once, but its tokens move only when its settlement is on the chain, and the
chain must keep up with a busy day without orders waiting for it. People trade in batches; every 1,000 trades are netted
into one settlement, whose parts become transactions of the private chain. A settlement counts from the first trade
until its last part is confirmed, and until no fork can undo it, which on any Solana takes 32 slots more. Before that
newcomers are registered and funded, the chain is paused, and they are funded many times, which fills the queue with
effects that wait for nothing but their turn; the pause ends: that is how fast it drains.
In the end, orders at a steady rate, alone and beside settlements. What the parts of the chain cost is told in
milliseconds of a core per transaction: they take the same cores as trading.

Run:  python -m bench.bench_settlement            the canonical size; quote only these numbers
      python -m bench.bench_settlement --smoke    small; run by the tests, so that it cannot rot
"""

import asyncio
import contextlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Final

import asyncpg
import httpx
import msgspec
import psutil
import uvloop
from msgspec import Struct

from bench.client import AckLog, Trader
from bench.closed import closed_loop
from bench.http import request_bytes
from bench.installation import Target, arguments, settle, target
from bench.load import Outcome, Plan
from bench.load import run as send_orders
from bench.machine import Result, machine, record
from bench.people import PLENTY, fund, pool_of, seeded
from bench.processes import parts
from persistence.embedded import EmbeddedPostgres

GOAL_TRADES, GOAL_TRANSACTIONS = 1_000, 300
OF_A_SETTLEMENT: Final = 1_000  # config/default.toml: settlement_trades_max
BATCH: Final = 250
ORDERS_RATE: Final = 200
SECONDS_MAX: Final = 300.0
CHAIN_PARTS: Final = ("chainsubmitter", "chainlistener", "devnet", "postgres")

SETTLED = "SELECT coalesce(sum(trades), 0)::bigint, coalesce(max(number), 0) FROM settlements WHERE status = ANY($1)"
OPEN = "SELECT count(*) FROM chain_submissions WHERE state NOT IN ('finalized', 'parked')"
UNCONFIRMED = "SELECT count(*) FROM chain_submissions WHERE state NOT IN ('confirmed', 'finalized', 'parked')"
CONFIRMED = "SELECT count(*) FROM settlement_parts WHERE status IN (3, 4)"
DONE = """
    SELECT count(*), count(DISTINCT signature) FILTER (WHERE signature <> '')
    FROM chain_submissions
    WHERE number > $1
        AND number <= $2
        AND state IN ('confirmed', 'finalized')
"""
TAKEN = "SELECT count(*) FROM chain_submissions WHERE number > $1 AND number <= $2 AND state <> 'queued'"
PAUSED = "SELECT (said ->> 'paused')::boolean FROM chain_parts WHERE part = 'submitter'"
MINTS = """
    SELECT signature, count(*)
    FROM chain_submissions
    JOIN outbox USING (number)
    WHERE state IN ('confirmed', 'finalized')
    GROUP BY signature
    HAVING bool_and(chain_submissions.kind = 'deposit_issued' AND payload ->> 'asset' LIKE 'energy:%')
    ORDER BY max(number) DESC
    LIMIT 20
"""
PARTS = """
    SELECT signature, sum(jsonb_array_length(payload -> 'deltas')) AS accounts
    FROM chain_submissions
    JOIN outbox USING (number)
    WHERE state IN ('confirmed', 'finalized')
        AND chain_submissions.kind = 'settle'
    GROUP BY signature
    ORDER BY max(number) DESC
    LIMIT 20
"""
NEWEST = "SELECT coalesce(max(number), 0) FROM chain_submissions"
TRANSACTIONS = """
    SELECT count(DISTINCT signature)
    FROM settlement_parts
    WHERE settlement > $1
"""


class Size(Struct, frozen=True):
    people: int
    deposits: int  # of each, in each of two assets
    trades: int  # a multiple of OF_A_SETTLEMENT, so that all of them are settled whatever waited before
    orders_seconds: int


CANONICAL: Final = Size(40, 100, 40_000, 10)
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
        people, drained = await _drained(exchange, data_dir, connection, size)
        if not smoke:
            settle()
        trades = await _settled(exchange, connection, people, size.trades)
        quiet = await _orders(exchange, people, size.orders_seconds)
        await _trade(exchange, people, size.trades)
        began = await connection.fetchval(CONFIRMED)
        beside = await _orders(exchange, people, size.orders_seconds)
        told = await connection.fetchval(CONFIRMED) - began
        [admin] = await seeded(exchange.url, data_dir, 1, (), role="admin")
        await _units(admin, connection)
    finally:
        await connection.close()
    print(f"orders alone: {_latency(quiet)}; beside settlements, parts={told}: {_latency(beside)}")
    if not smoke:
        rate, confirmed = trades
        effects, sent = drained
        record(
            [
                Result("settlement", "final", int(rate), "trades/s", GOAL_TRADES, rate >= GOAL_TRADES),
                Result("settlement", "confirmed", int(confirmed), "trades/s"),
                Result(
                    "chain queue",
                    "rate",
                    int(sent),
                    "tx/s",
                    GOAL_TRANSACTIONS,
                    sent >= GOAL_TRANSACTIONS,
                ),
                Result("chain queue", "effects", int(effects), "effects/s"),
                Result("orders alone, settlement", "p99", round(quiet.quantile_ms(990), 2), "ms"),
                Result("orders beside settlements", "p99", round(beside.quantile_ms(990), 2), "ms"),
            ]
        )


async def _drained(
    exchange: Target, data_dir: Path, connection: "asyncpg.Connection[Any]", size: Size
) -> tuple[list[Trader], tuple[float, float]]:
    """The people; effects and transactions per second, from the first that is taken until all are confirmed."""
    people = await seeded(exchange.url, data_dir, size.people, PLENTY)
    await _until(connection, UNCONFIRMED, lambda count: count == 0)  # they have vaults from now on
    [admin] = await seeded(exchange.url, data_dir, 1, (), role="admin")
    await admin.call("POST", "/chain/governance/pause")
    await _until(connection, PAUSED, bool)
    newest = await connection.fetchval(NEWEST)
    await asyncio.gather(*(fund(each, PLENTY * size.deposits) for each in people))
    last = await connection.fetchval(NEWEST)
    await admin.call("POST", "/chain/governance/unpause")
    await _until(connection, TAKEN, lambda count: count > 0, newest, last)
    began, before = perf_counter(), _seconds_of_cpu(data_dir)
    await _until(connection, UNCONFIRMED, lambda count: count == 0)
    seconds, after = perf_counter() - began, _seconds_of_cpu(data_dir)
    [(effects, transactions)] = await connection.fetch(DONE, newest, last)
    costs = {part: (after[part] - before[part]) / transactions * 1_000 for part in CHAIN_PARTS}
    print(
        f"queue: effects={effects} in {transactions} transactions, confirmed in {seconds:.1f} s: "
        f"{effects / seconds:.0f} effects/s, {transactions / seconds:.0f} tx/s; of a core per transaction: "
        + ", ".join(f"{part} {cost:.2f} ms" for part, cost in costs.items())
    )
    return people, (effects / seconds, transactions / seconds)


async def _units(admin: Trader, connection: "asyncpg.Connection[Any]") -> None:
    """Compute units of mints: of transactions that hold nothing else, by how many."""
    endpoint = (await admin.call("GET", "/chain/status"))["endpoints"][0]["host"]
    rows = await connection.fetch(MINTS)
    units = await _units_of(endpoint, [row["signature"] for row in rows])
    mints = sum(int(row["count"]) for row in rows)
    print(f"mint: {sum(units) / max(mints, 1):.0f} units each, {mints / max(len(rows), 1):.1f} in a transaction")
    rows = await connection.fetch(PARTS)
    units = await _units_of(endpoint, [row["signature"] for row in rows])
    accounts = sum(int(row["accounts"]) for row in rows)
    if accounts:
        pair, each = 2 * sum(units) / accounts, accounts / 2 / len(rows)
        print(f"settlement: {pair:.0f} units a pair, {each:.1f} pairs in a transaction")


async def _units_of(host: str, signatures: Sequence[str]) -> list[int]:
    async with httpx.AsyncClient(timeout=SECONDS_MAX) as client:
        found = []
        for number, signature in enumerate(signatures):
            options = {"encoding": "json", "commitment": "confirmed", "maxSupportedTransactionVersion": 0}
            body = {"jsonrpc": "2.0", "id": number, "method": "getTransaction", "params": [signature, options]}
            answer = (await client.post(f"http://{host}", json=body)).json()
            found.append(int(answer["result"]["meta"]["computeUnitsConsumed"]))
        return found


def _seconds_of_cpu(data_dir: Path) -> dict[str, float]:
    """Of each part of the exchange, so far."""
    spent: dict[str, float] = defaultdict(float)
    for part, process in parts(data_dir):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent[part] += times.user + times.system
    return spent


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
