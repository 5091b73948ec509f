"""Meters in one process: real aggregators, sockets and tables, keys that sign, and a clock that is set by hand."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from actors.dataplane import Secret
from actors.meter_aggregator import AggregatorOptions, MeterAggregator
from actors.meter_links import MeterLinks
from engine.metering.messages import Judged, Signed
from engine.metering.readings import Interval, Reading, Register, signed_bytes
from engine.metering.records import MeterRecord, NewMeter
from engine.metering.validation import DAY_US
from engine.records import AccountBalance, ZoneRecord
from engine.units import SECOND_US
from engine.views import Failed
from persistence.catalogue import PostgresCatalogue
from persistence.ledger import PostgresLedger
from persistence.meters import PostgresMeters
from persistence.people import PostgresPeople
from persistence.readings import PostgresReadings
from tests.support.patience import HUNG_SECONDS

SECRET = Secret(b"m" * 32)
ZONE = "Z1"
NOW_US = (time.time_ns() // 1_000 // DAY_US - 3) * DAY_US + DAY_US // 2  # a noon; the database's own clock is later
_ids = itertools.count(1)


class Device(NamedTuple):
    """A meter and the key in it."""

    record: MeterRecord
    key: Ed25519PrivateKey

    @property
    def meter_id(self) -> bytes:
        return self.record.meter_id

    def interval(self, counter: int, start_us: int, export_wh: int, import_wh: int = 0, **more: Any) -> Signed:
        duration_s = more.pop("duration_s", 900)
        return self.sign(Interval(self.meter_id, counter, start_us, duration_s, import_wh, export_wh, **more))

    def register(self, counter: int, at_us: int, export_wh: int, import_wh: int = 0) -> Signed:
        return self.sign(Register(self.meter_id, counter, at_us, import_wh, export_wh))

    def sign(self, reading: Reading, key: Ed25519PrivateKey | None = None) -> Signed:
        return Signed(reading, (key or self.key).sign(signed_bytes(reading)))


def signed_batch(readings: Sequence[Signed]) -> bytes:
    """The readings as a head-end signs them, or nothing where that is more than plain intervals."""
    if not all(isinstance(one.reading, Interval) and one.reading.corrects is None for one in readings):
        return b""
    return b"".join(signed_bytes(one.reading) for one in readings)


class FaultyReadings(PostgresReadings):
    """The real tables, whose commits fail on demand: before anything was written, or after all of it was."""

    fail: list[str]

    def __init__(self, dsn: str, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        super().__init__(dsn, pool)
        self.fail = []
        self.deaf = False  # hears of no change of a meter
        self.may_write = asyncio.Event()  # commits wait for it
        self.may_write.set()
        self.writes = asyncio.Event()  # a commit has begun
        self.may_post = asyncio.Event()  # windows wait for it
        self.may_post.set()
        self.posts = asyncio.Event()

    async def open(self, shard: int, shards: int, changed: Callable[[int], None]) -> None:
        await super().open(shard, shards, lambda number: None if self.deaf else changed(number))

    async def write(self, *arguments: Any) -> None:
        self.writes.set()
        await self.may_write.wait()
        await self._faulty("write", super().write(*arguments))

    async def post(self, *arguments: Any) -> Any:
        self.posts.set()
        await self.may_post.wait()
        return await self._faulty("post", super().post(*arguments))

    async def _faulty(self, what: str, work: Any) -> Any:
        if f"before {what}" in self.fail:
            self.fail.remove(f"before {what}")
            work.close()
            raise ConnectionError(f"planted: before {what}")
        done = await work
        if f"after {what}" in self.fail:
            self.fail.remove(f"after {what}")
            raise ConnectionError(f"planted: after {what}")
        return done


class Metering:
    """Shards of aggregators, and as many gateways' links as a test wants."""

    def __init__(self, dsn: str, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self.dsn, self.pool = dsn, pool
        self.now_us = NOW_US
        self.meters, self.people, self.ledger = PostgresMeters(pool), PostgresPeople(pool), PostgresLedger(pool)
        self.shards: list[MeterAggregator] = []
        self.readings: list[FaultyReadings] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.links: list[MeterLinks] = []
        self._link_tasks: list[asyncio.Task[None]] = []

    async def person(self, name: str) -> int:
        return (await self.people.create(f"{name}@example.org", name, b"x", "student", ZONE, self.now_us)).user_id

    async def device(self, owner_id: int, *, rated_power_w: int = 10_000, zone: str = ZONE) -> Device:
        key, number = Ed25519PrivateKey.generate(), next(_ids)
        meter_id = number.to_bytes(1, "big") + number.to_bytes(15, "big")
        new = NewMeter(
            meter_id,
            f"M{number}",
            "prosumer",
            rated_power_w,
            10**9 - 1,
            zone,
            key.public_key().public_bytes_raw(),
            None,
        )
        return Device(await self.meters.register(new, owner_id, self.now_us), key)

    async def start(self, shards: int = 1, close_every_seconds: float = 0.02) -> None:
        for shard in range(shards):
            readings = FaultyReadings(self.dsn, self.pool)
            part = MeterAggregator(
                shard,
                shards,
                readings,
                self.meters,
                SECRET,
                lambda: self.now_us,
                AggregatorOptions(close_every_seconds=close_every_seconds),
            )
            self.shards.append(part)
            self.readings.append(readings)
            self.tasks.append(asyncio.create_task(part.run()))

    async def has_judged(self, signed: Signed) -> None:
        """Wait until its aggregator has counted it in, committed or not."""
        reading = signed.reading
        async with asyncio.timeout(HUNG_SECONDS):
            while not any(  # noqa: ASYNC110 - it tells nobody before the commit
                known.state.counter >= reading.counter
                for shard in self.shards
                if (known := shard._judge.known.get(reading.meter_id))
            ):
                await asyncio.sleep(0.005)

    async def kill(self) -> None:
        """As kill -9 would: no draining, the sessions just end."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.shards, self.readings, self.tasks = [], [], []

    def gateway(self) -> MeterLinks:
        async def directory(*, waits: bool = False) -> list[str]:
            return [part.address for part in self.shards]

        links = MeterLinks(directory, SECRET)
        self.links.append(links)
        self._link_tasks.append(asyncio.create_task(links.run()))
        return links

    async def submit(self, readings: Sequence[Signed], submitter: int = 0, *, vouched: bool = False) -> Judged | Failed:
        return await self.links[0].submit(submitter, readings, vouched)

    async def judged(self, readings: Sequence[Signed], submitter: int = 0, *, vouched: bool = False) -> Judged:
        """Verdicts, however often the same must be sent again."""
        for _ in range(100):
            answer = await self.submit(readings, submitter, vouched=vouched)
            if isinstance(answer, Judged):
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError(answer)

    async def pass_time(self, seconds: int) -> None:
        """Let the clock go on, and everything be closed and posted that is due then."""
        self.now_us += seconds * SECOND_US
        for _ in range(500):
            open_windows = sum(part.status()["open_windows"] for part in self.shards)
            unposted = await self.pool.fetchval("SELECT count(*) FROM energy_adjustments WHERE posted_us IS NULL")
            serving = all(part.status()["state"] == "serving" and not part.status()["posting"] for part in self.shards)
            if serving and not unposted and (not open_windows or seconds < 900):
                return
            await asyncio.sleep(0.01)
        raise AssertionError([part.status() for part in self.shards])

    async def energy(self, owner_id: int, zone: str = ZONE) -> int:
        found = {one.asset: one for one in await self.ledger.balances(owner_id)}
        return found.get(f"energy:{zone}", AccountBalance("", 0, 0, 0)).available

    async def up(self, links: MeterLinks) -> None:
        """Return once all shards can be reached through these links."""
        for _ in range(200):
            probes = [Signed(Interval(bytes([shard]) + bytes(15), 0, 0, 1, 0, 0)) for shard in range(len(self.shards))]
            if isinstance(await links.submit(0, probes, False), Judged):
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the shards cannot be reached")

    async def stop(self) -> None:
        await self.kill()
        for task in self._link_tasks:
            task.cancel()
        await asyncio.gather(*self._link_tasks, return_exceptions=True)


@asynccontextmanager
async def metering(dsn: str, pool: "asyncpg.Pool[asyncpg.Record]") -> AsyncIterator[Metering]:
    await PostgresCatalogue(pool).put_zones([ZoneRecord(ZONE, "One"), ZoneRecord("Z2", "Two")])
    made = Metering(dsn, pool)
    made.gateway()
    try:
        yield made
    finally:
        await made.stop()
