"""The actor that follows the journals: projections, ledger bookings and snapshots, each exactly once.

One follower per market keeps a replica of the book. It applies each journal row, compares hashes, gathers what the row
means for the tables and writes it in one transaction with its cursor. Snapshots are taken here, so that the order path
never stops for one. A follower that finds its replica differing from the journal stops and says so; it never writes on.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter
from typing import Any, Final

import structlog
from msgspec import Struct

from actors import metrics
from actors.clock import clock_us
from actors.crash_points import Reached
from actors.dataplane import Secret
from actors.duties import Duty, keep
from actors.links import Directory, Links
from actors.ports import Journal, Projections, Snapshots
from actors.recovery import ROWS_AT_ONCE, NothingToRecover, OtherEngine, Replica, advance, recover, snapshot_of
from engine.journal import JournalBroken
from engine.projection import Projection
from engine.views import BookView, Feed

OPENED_SECONDS: Final = 0.25  # until somebody looks again whether a market has been opened
MARKETS_SECONDS: Final = 0.5  # until somebody looks again whether there is another market

log = structlog.get_logger()


class FollowerOptions(Struct, frozen=True):
    """entries_max: in one projection transaction; snapshot_every: entries between snapshots.

    While orders keep coming the follower rests four times as long as it has worked, at most rest_seconds_max, because
    the machine belongs to them, and many orders at once cost the tables a third of what they cost one by one. The
    journal is the buffer. It rests no more when somebody waits to read, or when it is behind by burst_max entries.
    """

    currency: str = "THB"
    entries_max: int = 4_000
    snapshot_every: int = 50_000
    snapshots_kept: int = 3
    poll_seconds: float = 2.0  # the market says when it has committed; this is for when that was lost
    rest_seconds_max: float = 1.0
    burst_max: int = 100_000
    partition_ahead: int = 2_000_000
    backoff_seconds_max: float = 5.0
    obligations_every_seconds: float = 10.0


class Follower:
    """One market's replica and its way into the tables.

    waiting -> following -> (waiting ...) ;  following -> diverged, and there it stays until somebody has found out why
    """

    def __init__(
        self,
        market_id: int,
        symbol: str,
        journal: Journal,
        snapshots: Snapshots,
        projections: Projections,
        options: FollowerOptions,
        crash: Reached | None = None,
    ) -> None:
        self.market_id, self.symbol = market_id, symbol
        self._journal, self._snapshots, self._projections = journal, snapshots, projections
        self._options, self._crash = options, crash
        self._wake = asyncio.Event()
        self._stopping = False
        self.state, self.detail = "waiting", ""
        self.sequence = 0
        self._snapshot_sequence = 0
        self._told = 0  # sequence of the market's last commit that we have heard of
        self._awaited = 0  # up to which sequence somebody waits to read
        self._hurry = asyncio.Event()
        self._write_seconds = 0.0  # of the last transaction
        self._partitions_to = 0

    def notice(self, news: BookView | Feed | None) -> None:
        """The market has committed: look at once instead of at the next poll. Or somebody waits to read.

        None: it is out of sight, and may have committed what nobody could tell us any more.
        """
        if isinstance(news, Feed) and news.is_awaited:
            self._awaited = max(self._awaited, news.sequence)
            self._hurry.set()
        elif news is not None:
            self._told = news.sequence
        self._wake.set()

    async def run(self) -> None:
        """Follow until stopped; faults are waited out, a divergence is not."""
        failures = 0
        while not self._stopping and self.state != "diverged":
            try:
                await self._follow()
            except JournalBroken as error:
                self.state, self.detail = "diverged", str(error)
                metrics.FOLLOWER_FAULTS.labels(self.symbol).inc()
                log.critical("follower.diverged", market=self.symbol, why=str(error))
            except NothingToRecover:
                self.state, self.detail = "waiting", "the market has not been opened yet"
                await asyncio.sleep(min(self._options.poll_seconds, OPENED_SECONDS))
            except Exception as error:  # noqa: BLE001 - a task's end: kept, logged, and started over
                failures = failures + 1 if self.state != "following" else 1
                self.state, self.detail = "waiting", repr(error)
                metrics.FOLLOWER_FAULTS.labels(self.symbol).inc()
                log.error("follower.starts_over", market=self.symbol, why=repr(error), failures=failures)
                await asyncio.sleep(min(0.1 * 2 ** min(failures, 10), self._options.backoff_seconds_max))

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def _follow(self) -> None:
        cursor = await self._projections.cursor(self.market_id)
        replica = await recover(self.market_id, self._journal, self._snapshots, up_to=cursor)
        projection = Projection(replica.book, self._options.currency)
        self.sequence = self._snapshot_sequence = replica.book.sequence
        self.state, self.detail = "following", ""
        last_snapshot = monotonic()
        looked = float("-inf")
        while True:
            if monotonic() - looked > self._options.obligations_every_seconds:
                projection.presence.oblige(await self._projections.obligations(self.market_id))
                looked = monotonic()
            self._wake.clear()  # what is told from here on may not be among these
            rows = await self._journal.rows(self.market_id, replica.book.sequence, ROWS_AT_ONCE)
            for row in rows:
                try:
                    advance(replica, row, projection.add)
                except OtherEngine:
                    # A new engine took over in the midst of what was read. The one that follows starts where the old
                    # one ended, so all of the old one's must be in the tables: it cannot replay the rest of it.
                    if projection.entries:
                        await self._write(projection, replica)
                    raise
                if projection.entries >= self._options.entries_max:
                    told = self._told
                    await self._write(projection, replica)
                    if self._told > told and self._told - self.sequence < self._options.burst_max:
                        await self._rest()
                    else:
                        await asyncio.sleep(0)
            if projection.entries:
                await self._write(projection, replica)
            at_end = len(rows) < ROWS_AT_ONCE
            last = at_end and self._stopping
            new = replica.book.sequence - self._snapshot_sequence
            if new >= self._options.snapshot_every or (new and (last or monotonic() - last_snapshot > 600)):
                await self._snapshot(replica)
                last_snapshot = monotonic()
            if last:
                return
            if at_end:
                await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._options.poll_seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        await self._rest()

    async def _rest(self) -> None:
        self._hurry.clear()
        if self._awaited > self.sequence:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(4 * self._write_seconds, self._options.rest_seconds_max)):
                await self._hurry.wait()

    async def _write(self, projection: Projection, replica: Replica) -> None:
        started = perf_counter()
        if self._crash is not None:
            self._crash("project")
        batch = projection.take()
        await self._projections.write(batch)
        if self._crash is not None:
            self._crash("projected")
        self.sequence = replica.book.sequence
        self._write_seconds = perf_counter() - started
        metrics.PROJECTION_SECONDS.labels(self.symbol).observe(self._write_seconds)
        metrics.FOLLOWED_SEQUENCE.labels(self.symbol).set(self.sequence)
        for epoch in batch.epochs:  # oldest first
            if epoch.cleared is not None and epoch.cleared.welfare_max_micro:
                ratio = epoch.cleared.welfare_micro / epoch.cleared.welfare_max_micro
                metrics.WELFARE_RATIO.labels(self.symbol).set(ratio)
        if self.sequence + self._options.partition_ahead > self._partitions_to:
            self._partitions_to = self.sequence + 2 * self._options.partition_ahead
            await self._journal.ensure_partitions(self.market_id, self._partitions_to)

    async def _snapshot(self, replica: Replica) -> None:
        started = perf_counter()
        snapshot = snapshot_of(replica)
        if self._crash is not None:
            self._crash("snapshot")
        await self._snapshots.save(snapshot)
        await self._snapshots.prune(self.market_id, self._options.snapshots_kept)
        self._snapshot_sequence = snapshot.sequence
        metrics.SNAPSHOT_SECONDS.labels(self.symbol).observe(perf_counter() - started)
        log.info("follower.snapshot", market=self.symbol, sequence=snapshot.sequence, bytes=len(snapshot.state))


class Persistence:
    """All followers of this node; new markets of the directory are followed as they come. Beside them its duties."""

    def __init__(
        self,
        journal_of: Any,
        snapshots: Snapshots,
        projections: Projections,
        directory: Directory,
        secret: Secret,
        options: FollowerOptions,
        crash_of: Callable[[str], Reached | None] = lambda _: None,
        duties: Sequence[Duty] = (),
    ) -> None:
        self._journal_of, self._snapshots, self._projections = journal_of, snapshots, projections
        self._options, self._crash_of = options, crash_of
        self._links = Links(directory, secret)
        self._duties = duties
        self._followers: dict[int, Follower] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Follow every market until stopped."""
        async with asyncio.TaskGroup() as tasks:
            links = tasks.create_task(self._links.run())
            for duty in self._duties:
                tasks.create_task(keep(duty, clock_us, self._stopping))
            following: list[asyncio.Task[None]] = []
            while not self._stopping.is_set():
                for spec in self._links.markets().values():
                    if spec.market_id not in self._followers:
                        follower = Follower(
                            spec.market_id,
                            spec.symbol,
                            self._journal_of(),
                            self._snapshots,
                            self._projections,
                            self._options,
                            self._crash_of(f"follower.{spec.symbol}"),
                        )
                        self._followers[spec.market_id] = follower
                        following.append(tasks.create_task(follower.run()))
                        self._links.watch(spec.market_id, frozenset(), False, follower.notice)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(MARKETS_SECONDS):
                        await self._stopping.wait()
            for follower in self._followers.values():
                follower.stop()
            await asyncio.gather(*following)
            links.cancel()

    async def drain(self) -> None:
        """Follow to the end of every journal, take a last snapshot of each, stop."""
        self._stopping.set()

    def status(self) -> dict[str, Any]:
        return {
            follower.symbol: {"state": follower.state, "detail": follower.detail, "sequence": follower.sequence}
            for follower in self._followers.values()
        }

    def __repr__(self) -> str:
        return f"Persistence({', '.join(f.symbol for f in self._followers.values())})"
