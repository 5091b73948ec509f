"""How much an epoch's end delays the orders that come meanwhile.

Why it matters: all orders of an epoch become trades at its end, and who places an order for the next one at that moment
should not notice. A market of its own process; its orders are those of a call auction, which nearly all trade. Probes
come at a steady rate, are timed from the instant for which they were meant, and count as `meanwhile` from the epoch's
end until its auction is in the journal; `before` are those of the second before.

Run:  python -m bench.bench_epoch            the canonical size; quote only these numbers
      python -m bench.bench_epoch --smoke    small; run by the tests, so that it cannot rot
"""

import asyncio
import os
import random
import secrets
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns, time
from typing import Final

import msgspec
import uvloop
from msgspec import Struct

from actors.clock import clock_us
from actors.dataplane import Secret
from actors.links import Links, Place
from bench.database import empty_database, server
from bench.installation import arguments, settle
from bench.machine import Result, machine, percentile, record, times
from bench.market_process import Serving
from engine.market import MarketSpec, Mechanism, Phase
from engine.messages import EpochCleared, PlaceOrder, Side
from engine.records import CostRecord, ZoneRecord
from engine.views import BookView, Feed, OrderAnswer
from persistence import migrate
from persistence.catalogue import PostgresCatalogue
from persistence.ledger import PostgresLedger
from persistence.people import PostgresPeople
from persistence.postgres import open_pool

GOAL_P99_MS: Final = 20
SYMBOL: Final = "NOON"
ZONE: Final = "Z1"
PEOPLE: Final = 200
PROBES_PER_SECOND: Final = 200
AT_ONCE: Final = 500
LIMIT_FAR: Final = 500_000  # of the probes, which must not trade


class Probe(Struct):
    """Both by perf_counter."""

    meant_ns: int
    answered_ns: int


class Round(Struct):
    """One epoch's end. clearing_ns: from then until the auction is in the journal."""

    clearing_ns: int
    before_ns: list[int]
    meanwhile_ns: list[int]
    cleared: EpochCleared


class Ends:
    """Hears of cleared auctions."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[int, EpochCleared]] = asyncio.Queue()

    def __call__(self, news: BookView | Feed | None) -> None:
        if isinstance(news, Feed):
            for event in news.epochs:
                if isinstance(event, EpochCleared) and event.orders:
                    self.heard.put_nowait((perf_counter_ns(), event))


def main() -> None:
    given = arguments(__doc__).parse_args()
    rounds, orders, epoch_seconds = (1, 400, 4) if given.smoke else (5, 10_000, 10)
    with server(given.data_dir) as address:
        if not given.smoke:
            settle()
        found = uvloop.run(_measure(address, rounds, orders, epoch_seconds))
    checksum = 0
    for one in found:
        checksum = zlib.crc32(f"{one.cleared.volume_wh} {one.cleared.value_micro}".encode(), checksum)
        print(
            f"cleared {one.cleared.orders} orders in {one.clearing_ns / 1e6:.0f}ms: {one.cleared.trades} trades, "
            f"{len(one.meanwhile_ns)} probes meanwhile"
        )
    before, meanwhile = (sorted(ns for one in found for ns in getattr(one, f)) for f in ("before_ns", "meanwhile_ns"))
    print(f"machine: {machine()}")
    print(f"before: {times(before)}")
    print(f"meanwhile: {times(meanwhile)} of {len(meanwhile)} checksum={checksum:08x}")
    if not given.smoke:
        clearing_ms = sorted(one.clearing_ns for one in found)[len(found) // 2] / 1e6
        p99_ms = round(percentile(meanwhile, 990) / 1e6, 1)
        bench = "an epoch's end, 10,000 orders"
        record(
            [
                Result(bench, "orders meanwhile, p99", p99_ms, "ms", GOAL_P99_MS, p99_ms <= GOAL_P99_MS),
                Result(bench, "orders before, p99", round(percentile(before, 990) / 1e6, 1), "ms"),
                Result(bench, "until cleared", round(clearing_ms), "ms"),
            ]
        )


async def _measure(address: str, rounds: int, orders: int, epoch_seconds: int) -> list[Round]:
    async with empty_database(address) as dsn:
        await migrate.up(dsn)
        spec, people = await _prepared(dsn, epoch_seconds)
        secret = secrets.token_hex(16)
        with _market(dsn, spec, secret) as where:

            async def directory(*, waits: bool = False) -> list[Place]:  # noqa: ARG001 - it knows at once
                return [Place(spec, where)]

            links, ends = Links(directory, Secret(secret.encode())), Ends()
            running = asyncio.create_task(links.run())
            try:
                while not links.markets():  # noqa: ASYNC110 - the directory is read now and then
                    await asyncio.sleep(0.01)
                links.watch(spec.market_id, frozenset(), True, ends)
                return [await _round(links, spec, people, ends, orders, seed) for seed in range(rounds)]
            finally:
                running.cancel()
                await asyncio.wait([running])


async def _prepared(dsn: str, epoch_seconds: int) -> tuple[MarketSpec, list[int]]:
    pool = await open_pool(dsn, 2, "bench epoch")
    try:
        catalogue, ledger = PostgresCatalogue(pool), PostgresLedger(pool)
        await catalogue.put_zones([ZoneRecord(ZONE, "A feeder")])
        await catalogue.put_costs([CostRecord(ZONE, ZONE, 500_000, 100, 0)], clock_us())
        draft = MarketSpec(
            market_id=0,
            symbol=SYMBOL,
            zones=(ZONE,),
            paths=await catalogue.paths((ZONE,), clock_us()),
            mechanism=Mechanism.CALL_AUCTION,
            auction_fee_bps=10,
            band_bps=0,
            epoch_seconds=epoch_seconds,
        )
        spec = await catalogue.create_market(draft, Phase.OPEN, clock_us())
        people = []
        for number in range(PEOPLE):
            email = f"epoch-{number}@example.org"
            user = await PostgresPeople(pool).create(email, email, b"x", "student", ZONE, clock_us())
            people.append(user.user_id)
            for asset, amount in (("THB", 10**12), (f"energy:{ZONE}", 10**9)):
                await ledger.deposit(user.user_id, asset, amount, f"{number}:{asset}", clock_us())
        return spec, people
    finally:
        await pool.close()


@contextmanager
def _market(dsn: str, spec: MarketSpec, secret: str) -> Iterator[str]:
    """The market in a process of its own, as its actor runs it; where it listens."""
    with tempfile.TemporaryDirectory(prefix="wb-") as folder:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WATTBOOK_")},
            "WATTBOOK_DATABASE_URL": dsn,
            "WATTBOOK_DATA_DIR": folder,
            "WATTBOOK_CLUSTER_SECRET": secret,
        }
        command = [sys.executable, "-m", "bench.market_process", str(spec.market_id), spec.symbol]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the market did not start")
            yield msgspec.json.decode(line, type=Serving).address
        finally:
            process.stdin.close()
            process.wait(60)


async def _round(links: Links, spec: MarketSpec, people: list[int], ends: Ends, orders: int, seed: int) -> Round:
    """Fill an epoch with orders, and probe around its end."""
    chance, batch = random.Random(seed), []
    epoch_seconds = spec.epoch_seconds
    await asyncio.sleep(epoch_seconds - time() % epoch_seconds + 0.2)  # a fresh one
    for number in range(orders):
        side = Side(number % 2)
        price = (4_000_000 if side is Side.BUY else 2_000_000) + chance.randrange(1_000) * 1_000
        batch.append(PlaceOrder(chance.choice(people), side, price, chance.randrange(1, 2_000), ZONE))
    for start in range(0, orders, AT_ONCE):
        answers = await links.submit_many(spec.market_id, batch[start : start + AT_ONCE])
        assert all(isinstance(answer, OrderAnswer) for answer in answers), answers[0]
    left = epoch_seconds - time() % epoch_seconds
    end_ns = perf_counter_ns() + int(left * 1e9)
    assert left > 1.0, "the epoch is too short for these orders"
    await asyncio.sleep(left - 1.0)
    while not ends.heard.empty():  # of the epoch before, in which the rest of the round before met nobody
        ends.heard.get_nowait()
    probes, sending, start_ns = list[Probe](), list[asyncio.Task[None]](), perf_counter_ns()
    while ends.heard.empty():
        meant_ns = start_ns + len(sending) * 1_000_000_000 // PROBES_PER_SECOND
        await asyncio.sleep(max(0.0, (meant_ns - perf_counter_ns()) / 1e9))
        sending.append(asyncio.create_task(_probe(links, spec, people[len(sending) % PEOPLE], meant_ns, probes)))
    cleared_ns, cleared = ends.heard.get_nowait()
    await asyncio.gather(*sending)
    return Round(
        cleared_ns - end_ns,
        [one.answered_ns - one.meant_ns for one in probes if one.answered_ns < end_ns],
        [one.answered_ns - one.meant_ns for one in probes if one.answered_ns >= end_ns and one.meant_ns < cleared_ns],
        cleared,
    )


async def _probe(links: Links, spec: MarketSpec, participant_id: int, meant_ns: int, probes: list[Probe]) -> None:
    answer = await links.submit(spec.market_id, PlaceOrder(participant_id, Side.BUY, LIMIT_FAR, 1, ZONE))
    assert isinstance(answer, OrderAnswer), answer
    probes.append(Probe(meant_ns, perf_counter_ns()))


if __name__ == "__main__":
    main()
