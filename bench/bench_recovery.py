"""How soon a market with a long past serves again, how fast its whole past replays, and how much memory it takes.

Why it matters: after a crash nobody trades in that market until this time is over; and memory bounds the markets of one
machine. The past: 1,000,000 journaled commands and 100,000 resting orders of 1,000 participants, written by the engine
into a database of its own, with the newest snapshot as far back as the follower lets it fall. `ready` counts from the
start of a fresh process of the market to its serving; the whole replay starts from the snapshot at sequence 0.

Run:  python -m bench.bench_recovery            the canonical size; quote only these numbers
      python -m bench.bench_recovery --smoke    small; run by the tests, so that it cannot rot
"""

import argparse
import asyncio
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from time import perf_counter

import msgspec

from actors.recovery import ROWS_AT_ONCE, advance, newest_snapshot
from bench.database import empty_database, server
from bench.history import SYMBOL, Past, write_past
from bench.installation import arguments, settle
from bench.machine import Result, machine, record
from bench.market_process import Serving
from config.load import load
from engine.book import state
from persistence import migrate
from persistence.journal import PostgresJournal
from persistence.postgres import open_pool
from persistence.snapshots import PostgresSnapshots

GOAL_READY_SECONDS, GOAL_MB = 10.0, 300.0
COMMANDS, RESTING, STARTS = 1_000_000, 100_000, 3
SERVING_SECONDS_MAX = 120.0


class Start(msgspec.Struct):
    """One start of the market's process. seconds: from the process' beginning to serving."""

    seconds: float
    said: Serving


def main() -> None:
    given = arguments(__doc__).parse_args()
    with server(given.data_dir) as address:
        asyncio.run(_run(address, given))


async def _run(address: str, given: argparse.Namespace) -> None:
    commands, resting, starts = (6_000, 500, 1) if given.smoke else (COMMANDS, RESTING, STARTS)
    tail = min(load().snapshot_every, commands // 4)
    print(f"machine: {machine()}")
    async with empty_database(address) as dsn:
        await migrate.up(dsn)
        began = perf_counter()
        past = await write_past(dsn, commands, resting, tail)
        print(f"wrote {past.sequence} commands in {perf_counter() - began:.0f} s, open={past.open_orders} tail={tail}")
        if not given.smoke:
            settle()
        found = [_start(dsn, past) for _ in range(starts)]
        rate = await _replay(dsn, past)
    ready = statistics.median(one.seconds for one in found)
    serving_mb = max(one.said.serving_mb for one in found)
    for one in found:
        said = one.said
        print(f"ready={one.seconds:.2f}s, of it recovery {said.seconds:.2f}s", end=" ")
        print(f"memory: loaded {said.loaded_mb:.0f} MB, serving {said.serving_mb:.0f} MB, peak {said.peak_mb:.0f} MB")
    print(f"commands={past.sequence} checksum={past.state_hash.hex()[:16]} replay={rate}/s")
    if not given.smoke:
        bench = "recovery"
        record(
            [
                Result(bench, "ready", round(ready, 2), "s", GOAL_READY_SECONDS, ready <= GOAL_READY_SECONDS),
                Result(bench, "whole replay", rate, "commands/s"),
                Result("market memory", "serving", round(serving_mb), "MB", GOAL_MB, serving_mb <= GOAL_MB),
                Result("market memory", "peak", round(max(one.said.peak_mb for one in found)), "MB"),
                Result("market memory", "without a book", round(found[0].said.loaded_mb), "MB"),
            ]
        )


def _start(dsn: str, past: Past) -> Start:
    """Start the market in a process of its own and end it. Raises SystemExit when it is not the market that was."""
    with tempfile.TemporaryDirectory(prefix="wb-") as folder:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WATTBOOK_")},
            "WATTBOOK_DATABASE_URL": dsn,
            "WATTBOOK_DATA_DIR": folder,
            "WATTBOOK_CLUSTER_SECRET": secrets.token_hex(16),
        }
        command = [sys.executable, "-m", "bench.market_process", str(past.market_id), SYMBOL]
        began = perf_counter()
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = perf_counter() - began
        process.stdin.close()
        process.wait(SERVING_SECONDS_MAX)
    if not line:
        raise SystemExit("the market did not start")
    said = msgspec.json.decode(line, type=Serving)
    if (said.sequence, said.open_orders) != (past.sequence, past.open_orders):
        raise SystemExit(f"the market serves at sequence {said.sequence} with {said.open_orders} orders")
    return Start(seconds, said)


async def _replay(dsn: str, past: Past) -> int:
    """Commands per second from the first to the last. Raises SystemExit when another state comes of them."""
    pool, journal = await open_pool(dsn, 2, "bench replay"), PostgresJournal(dsn)
    try:
        began = perf_counter()
        replica = await newest_snapshot(past.market_id, PostgresSnapshots(pool), at_most=0)
        while rows := await journal.rows(past.market_id, replica.book.sequence, ROWS_AT_ONCE):
            for row in rows:
                advance(replica, row)
        seconds = perf_counter() - began
    finally:
        await journal.close()
        await pool.close()
    if state.state_hash(state.encode(replica.book)) != past.state_hash:
        raise SystemExit("replaying the journal gives another state")
    return int(past.sequence / seconds)


if __name__ == "__main__":
    main()
