"""How a follower shares the machine with orders and readers: it rests between writes, unless too much is behind.

Seen to fail for: a follower that rests though nobody sends orders, that never rests, that rests whatever is behind; one
that readers do not wake, that rests before it has written what they wait for, that any commit wakes; one that
forgets what it is told while it reads; one that stops short of where another engine took over.
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from actors.persistence import Follower, FollowerOptions
from actors.recovery import Replica, snapshot_of
from engine.analytics.presence import Obligation
from engine.book.order_book import OrderBook
from engine.journal import GENESIS_HASH, JournalRow, Snapshot, seal
from engine.market import Phase
from engine.messages import ENGINE_VERSION
from engine.projection import ProjectionBatch
from engine.views import BookView, Feed
from tests.support.builders import Desk, market
from tests.support.patience import HUNG_SECONDS

ROWS = 6


class Books:
    """A journal of six rows with one entry each, and tables that take everything; the market goes on meanwhile."""

    def __init__(self, told: int) -> None:
        desk, previous, self._rows = Desk(market()), GENESIS_HASH, list[JournalRow]()
        self._first = snapshot_of(Replica(OrderBook(market()), GENESIS_HASH))
        for _ in range(ROWS):
            desk.tick()
            self._rows.append(seal(1, desk.entries[-1:], desk.steps[-1:], previous))
            previous = self._rows[-1].hash
        self._told, self._written = told, 0
        self.follower: Follower | None = None

    async def newest_first(self, market_id: int, at_most: int | None = None) -> AsyncIterator[Snapshot]:
        yield self._first

    async def save(self, snapshot: Snapshot) -> None: ...

    async def obligations(self, market_id: int) -> list[Obligation]:
        return []

    async def prune(self, market_id: int, keep: int) -> int:
        return 0

    async def open(self, market_id: int) -> int:
        return 1

    async def append(self, row: JournalRow) -> None: ...

    async def rows(self, market_id: int, after_sequence: int, limit: int = 500) -> list[JournalRow]:
        return [row for row in self._rows if row.first_sequence > after_sequence]

    async def ensure_partitions(self, market_id: int, up_to_sequence: int) -> None: ...

    async def close(self) -> None: ...

    async def cursor(self, market_id: int) -> int:
        return 0

    async def write(self, batch: ProjectionBatch) -> None:
        assert self.follower is not None
        self._written += 1
        if self._told:
            self.follower.notice(BookView(self._told + self._written, (), ()))
        if self._written == ROWS:
            self.follower.stop()


class Counting(Follower):
    rests = 0

    async def _rest(self) -> None:
        self.rests += 1


@pytest.mark.parametrize(
    ("told", "burst_max", "rests"),
    [
        (0, 100, 0),  # it catches up after a restart, and nobody sends orders
        (10, 11, ROWS),  # orders keep coming
        (10, 10, 0),  # and so many wait that it must not fall further back
    ],
)
async def test_it_rests_while_orders_come_and_the_journal_has_room_for_the_burst(
    told: int, burst_max: int, rests: int
) -> None:
    books = Books(told)
    options = FollowerOptions(entries_max=1, burst_max=burst_max)
    follower = books.follower = Counting(1, "CAMPUS", books, books, books, options)

    await follower.run()

    assert (follower.sequence, follower.rests) == (ROWS, rests)


def feed(sequence: int, *, is_awaited: bool) -> Feed:
    return Feed(1, sequence, (), (), (), Phase.OPEN, is_awaited=is_awaited)


@pytest.fixture
def tired() -> Follower:
    """One that has just written for a minute, and would rest for an hour."""
    books = Books(told=0)
    follower = Follower(1, "CAMPUS", books, books, books, FollowerOptions(rest_seconds_max=3_600))
    follower.sequence, follower._write_seconds = 10, 900
    return follower


async def test_who_waits_to_read_ends_its_rest(tired: Follower) -> None:
    resting = asyncio.create_task(tired._rest())
    await asyncio.sleep(0)
    tired.notice(feed(12, is_awaited=False))
    await asyncio.sleep(0.01)
    assert not resting.done()

    tired.notice(feed(11, is_awaited=True))

    await asyncio.wait_for(resting, HUNG_SECONDS)


async def test_it_does_not_rest_before_it_has_written_what_somebody_waits_for(tired: Follower) -> None:
    tired.notice(feed(11, is_awaited=True))
    await asyncio.wait_for(tired._rest(), HUNG_SECONDS)

    tired.sequence = 11
    resting = asyncio.create_task(tired._rest())
    await asyncio.sleep(0.01)
    assert not resting.done()
    resting.cancel()


class Hasty(Books):
    """Its last row is committed, and told, while the others are being read."""

    async def rows(self, market_id: int, after_sequence: int, limit: int = 500) -> list[JournalRow]:
        found = await super().rows(market_id, after_sequence, limit)
        if after_sequence == 0:
            assert self.follower is not None
            self.follower.notice(feed(ROWS, is_awaited=False))
            return found[:-1]
        return found


async def test_what_is_told_while_it_reads_is_not_left_for_the_next_poll() -> None:
    books = Hasty(told=0)
    books.follower = Follower(1, "CAMPUS", books, books, books, FollowerOptions(entries_max=1, poll_seconds=3_600))

    await asyncio.wait_for(books.follower.run(), HUNG_SECONDS)

    assert books.follower.sequence == ROWS


class Upgraded(Books):
    """After some rows another engine has taken over, and all are read at once."""

    def __init__(self, rows_before: int) -> None:
        super().__init__(told=0)
        self._rows[rows_before:] = [
            msgspec.structs.replace(row, engine_version=ENGINE_VERSION + 1) for row in self._rows[rows_before:]
        ]
        self.cursors: list[int] = []

    async def write(self, batch: ProjectionBatch) -> None:
        self.cursors.append(batch.sequence_to)


@pytest.mark.parametrize(("rows_before", "cursors"), [(4, [4]), (0, [])])
async def test_it_writes_all_that_came_before_another_engine(rows_before: int, cursors: list[int]) -> None:
    books = Upgraded(rows_before)
    follower = books.follower = Follower(1, "CAMPUS", books, books, books, FollowerOptions())

    await follower.run()

    assert books.cursors == cursors
    assert follower.sequence == rows_before
    assert follower.state == "diverged"
    assert f"written by engine version {ENGINE_VERSION + 1}" in follower.detail
    assert "end this process" in follower.detail
